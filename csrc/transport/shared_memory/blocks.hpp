#pragma once

#include "transport/peer_memory/ipc_api.hpp"
#include "transport/peer_memory/owned_file.hpp"
#include <cstddef>
#include <optional>

namespace dynatrain {

/// The block of this process in which an address lies, none where it lies elsewhere. Any thread.
[[nodiscard]] std::optional<IpcPiece> block_at(const std::byte* address);

/// The file of the block that begins at `base`, once more; empty when there is no such block.
/// Errors: DeviceError when the system has no more files.
[[nodiscard]] OwnedFile file_of_block(const std::byte* base);

}  // namespace dynatrain
