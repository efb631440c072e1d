#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace dynatrain {

/// One copy into a run of bytes: a box of a live tensor, dense in the run.
struct PackedPiece {
  std::size_t index = 0;  ///< of the descriptor that it is a part of
  Box box;
  View live;    ///< in the buffer of the live tensor
  View packed;  ///< in the run, in elements of the tensor from its begin
};

/// What one rank holds, laid out in one run of bytes: it stands for the tensors when these are
/// gone.
struct Packing {
  std::vector<Descriptor> held;  ///< by explicit fragments, in elements from the begin of the run
  std::vector<PackedPiece> pieces;
  std::int64_t size_bytes = 0;  ///< of the run; a multiple of kPackedAlignment
};

/// Where a piece begins in a run, and a run in the buffer that several are joined in.
inline constexpr std::int64_t kPackedAlignment = 64;

/// Lays out what `rank` holds, a tensor of which it has an empty shard left out.
///
/// Shapes   meshes of `descriptors` number their ranks as `rank` is.
/// Errors   LayoutError for elements whose size does not divide kPackedAlignment, and as
///          make_compact_sharding().
/// Cost     O(fragments of the rank).
/// Source   own; docs/design/layout.md, "Packed states".
[[nodiscard]] Packing make_packing(std::span<const Descriptor> descriptors, int rank);

/// A run in a buffer, and what Packing::held says of it, encoded.
struct PackedShare {
  std::string_view blob;
  std::int64_t offset_bytes = 0;
};

/// What a rank holds that has the runs of several ranks in one buffer, its own and those that it
/// keeps for others: by fragments in elements from the begin of the buffer. What two runs hold is
/// told of the first one alone, as a rank holds every element once.
///
/// Errors   LayoutError where a blob cannot be read, is of no run, tells of a box that its tensor
///          does not have, or two disagree about a tensor.
/// Source   own; docs/design/layout.md, "Packed states".
[[nodiscard]] std::vector<Descriptor> join_packed(std::span<const PackedShare> shares);

}  // namespace dynatrain
