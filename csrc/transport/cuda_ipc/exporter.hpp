#pragma once

#include "dynatrain/execution/transport.hpp"

#include "transport/cuda_ipc/publication.hpp"
#include <map>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {

/// Makes publications of this rank's memory, and holds the files that peers fetch until close().
class Exporter {
 public:
  explicit Exporter(std::shared_ptr<IpcApi> api) : api_(std::move(api)) {}
  ~Exporter() { close(); }
  Exporter(const Exporter&) = delete;
  Exporter& operator=(const Exporter&) = delete;

  /// A publication that holds its refusal when the driver refuses any of the buffers.
  /// Cost: one look a tensor, one export a piece.
  [[nodiscard]] IpcPublication make(std::span<const ExposedBuffer> buffers);
  void close() noexcept;

 private:
  using Pieces = std::map<const std::byte*, IpcPiece>;

  void find_pieces(const ExposedBuffer& buffer, Pieces& pieces);
  [[nodiscard]] PublishedPiece publish(const IpcPiece& piece);
  [[nodiscard]] std::vector<PublishedRange> join(const Pieces& pieces);

  std::shared_ptr<IpcApi> api_;
  std::vector<int> files_;
};

}  // namespace dynatrain
