#pragma once

#include "transport/peer_memory/file_fetcher.hpp"
#include "transport/peer_memory/publication.hpp"
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

namespace dynatrain {

/// Memory of peers that is mapped into this process: opened once for each allocation, however many
/// tensors lie in it, and for one publication: what the peer frees after it, it may make again.
class Mappings {
 public:
  explicit Mappings(std::shared_ptr<IpcApi> api) : api_(std::move(api)) {}
  ~Mappings() { close_all(); }
  Mappings(const Mappings&) = delete;
  Mappings& operator=(const Mappings&) = delete;

  /// Takes the newest publication of `peer`: what was mapped of its former one is closed.
  void meet(int peer, std::int64_t number, IpcPublication publication);
  [[nodiscard]] bool has_met(int peer, std::int64_t number) const;
  /// Null where the peer has said that it cannot export some buffers, and this is one of them.
  /// Errors: TransportError when the peer did not publish it, else as IpcApi and FileFetcher.
  [[nodiscard]] SourceAddress map(int peer, BufferId buffer, const PeerWait& wait);
  void close_all() noexcept;

 private:
  struct Opened {
    IpcKind kind = IpcKind::kHandle;
    SourceAddress at;
    std::int64_t size_bytes = 0;
  };
  struct Peer {
    std::int64_t number = 0;
    IpcPublication publication;
    std::map<std::size_t, Opened> opened;  ///< by range
  };

  [[nodiscard]] Opened open(int peer, const PublishedRange& range, const PeerWait& wait);
  void close(const Opened& opened) noexcept;
  void close_all(Peer& peer) noexcept;

  std::shared_ptr<IpcApi> api_;
  std::map<int, Peer> peers_;
};

}  // namespace dynatrain
