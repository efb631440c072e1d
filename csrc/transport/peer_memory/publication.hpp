#pragma once

#include "dynatrain/base/strong_id.hpp"

#include "transport/peer_memory/ipc_api.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace dynatrain {

struct PublishedPiece {
  std::int64_t size_bytes = 0;
  std::string handle;      ///< of a kHandle
  std::uint64_t file = 0;  ///< of a kFile, a number of the owner's FileServer
};

/// Pieces that lie back to back in the owner's addresses; one, for a kHandle.
struct PublishedRange {
  IpcKind kind = IpcKind::kHandle;
  std::uint64_t base = 0;  ///< address in the owner's process
  std::vector<PublishedPiece> pieces;
};

struct PublishedBuffer {
  BufferId buffer;
  std::size_t range = 0;
  std::int64_t offset_bytes = 0;
  std::int64_t size_bytes = 0;
};

/// All that a rank tells its peers about its memory, as one value of the store.
struct IpcPublication {
  std::string refusal;      ///< why some buffers are not among these; empty when all are
  std::string file_server;  ///< name of the owner's; empty when no range is a kFile
  std::vector<PublishedRange> ranges;
  std::vector<PublishedBuffer> buffers;
};

[[nodiscard]] std::string encode(const IpcPublication& publication);
/// Errors: TransportError naming `peer` when the bytes are no publication.
[[nodiscard]] IpcPublication decode_publication(const std::string& bytes, int peer);

}  // namespace dynatrain
