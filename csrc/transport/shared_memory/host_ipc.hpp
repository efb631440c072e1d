#pragma once

#include "transport/peer_memory/ipc_api.hpp"
#include <memory>

namespace dynatrain {

/// What lies in SharedBlocks, handed over as files and mapped for reading only.
[[nodiscard]] std::shared_ptr<IpcApi> make_host_ipc();

}  // namespace dynatrain
