#pragma once

#include "dynatrain/transport/store.hpp"

#include "transport/cuda_ipc/abort_flag.hpp"
#include <string>

namespace dynatrain {

/// Waits until `peer` has set `key`.
/// Errors: TransportError naming the peer when it has ended, or at the deadline; with the reason
///         after an abort.
[[nodiscard]] std::string wait_for_word(Store& store,
                                        const std::string& key,
                                        int peer,
                                        const PeerWait& wait);

}  // namespace dynatrain
