#pragma once

#include "dynatrain/geometry/box.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// No mesh cuts a tensor into more pieces than this, by the split factors of all its dimensions.
inline constexpr std::int64_t kMaxSplitFactor = 1LL << 20U;

/// How one mesh dimension cuts a tensor.
struct Placement {
  enum class Kind : std::uint8_t { kReplicate, kShard };
  Kind kind = Kind::kReplicate;
  int dim = 0;                    ///< the tensor dimension that is cut; 0 when replicated
  std::int64_t split_factor = 1;  ///< > 1 for torch's _StridedShard (FSDP inside TP)

  friend bool operator==(const Placement&, const Placement&) = default;
};

/// An n-d arrangement of ranks, row-major; every rank at most once.
struct Mesh {
  std::vector<int> shape;
  std::vector<int> ranks;

  /// Errors: LayoutError when the product of `shape` is not the number of ranks, or one repeats.
  void check() const;
  /// The coordinate of `rank`, or an empty vector when it is not in the mesh.
  [[nodiscard]] std::vector<int> coordinate_of(int rank) const;

  friend bool operator==(const Mesh&, const Mesh&) = default;
};

/// The intervals of one tensor dimension that a mesh coordinate holds, in local order. Local index
/// i of that dimension is the i-th element of their concatenation. Empty when it holds nothing.
using DimIntervals = std::vector<Interval>;

/// Returns, for each tensor dimension, what the mesh coordinate holds under `placements`.
///
/// Rule     a Shard cuts the current local index space by chunks of ceil(length / parts), the last
///          ones shorter or empty (torch.chunk's rule). A strided Shard whose split_factor is the
///          product of the later mesh dimensions that shard the same tensor dimension is applied
///          after those (that is what FSDP inside TP does); any other one cuts the index space into
///          split_factor pieces and each piece into parts, and takes the own part of each piece.
/// Errors   LayoutError when placements and mesh disagree in length, a dim is out of range, or a
///          split_factor, or the product of all, is not in [1, kMaxSplitFactor].
/// Source   own; docs/design/layout.md, "From placements to boxes".
[[nodiscard]] std::vector<DimIntervals> local_intervals(const Shape& shape,
                                                        std::span<const int> mesh_shape,
                                                        std::span<const int> coordinate,
                                                        std::span<const Placement> placements);

}  // namespace dynatrain
