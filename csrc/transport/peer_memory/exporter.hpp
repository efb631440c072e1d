#pragma once

#include "dynatrain/execution/transport.hpp"
#include "dynatrain/transport/peer_memory.hpp"

#include "transport/peer_memory/file_server.hpp"
#include "transport/peer_memory/publication.hpp"
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace dynatrain {

/// Makes publications of this rank's memory, and offers the files that peers fetch until close().
class Exporter {
 public:
  /// `verdict` says which kinds work: memory of another one is refused with why.
  explicit Exporter(std::shared_ptr<IpcApi> api, PeerMemoryReport verdict = {})
      : api_(std::move(api)), verdict_(std::move(verdict)) {}
  ~Exporter() { close(); }
  Exporter(const Exporter&) = delete;
  Exporter& operator=(const Exporter&) = delete;

  /// A publication of the buffers that can be exported, with the refusal of the first that cannot.
  /// Cost: one look a tensor and a piece. Files are made when a peer asks.
  [[nodiscard]] IpcPublication make(std::span<const ExposedBuffer> buffers);
  void close() noexcept;

 private:
  using Pieces = std::map<const std::byte*, IpcPiece>;

  /// The pieces that a buffer lies in, of those that are known or new.
  /// Errors: DeviceError when it cannot be exported.
  [[nodiscard]] std::vector<IpcPiece> pieces_of(const ExposedBuffer& buffer, const Pieces& known);
  void check_works(IpcKind kind) const;
  [[nodiscard]] PublishedPiece publish(const IpcPiece& piece);
  [[nodiscard]] std::vector<PublishedRange> join(const Pieces& pieces);

  std::shared_ptr<IpcApi> api_;
  PeerMemoryReport verdict_;
  std::unique_ptr<FileServer> files_;  ///< null until there is a file to offer
};

}  // namespace dynatrain
