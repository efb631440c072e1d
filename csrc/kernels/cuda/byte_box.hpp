#pragma once

#include "kernels/bound_copy.hpp"
#include "kernels/cuda/box_table.hpp"
#include <array>
#include <cstdint>

namespace dynatrain {

/// A copy in bytes: addresses, strides, and the longest run that both sides share.
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): clearing unused dims is half the cost
struct ByteBox {
  struct Dim {
    std::int64_t extent;
    std::int64_t src_stride_bytes;
    std::int64_t dst_stride_bytes;
  };

  std::uint64_t src = 0;
  /// Where nothing is stored: src for sums of parts; for fingerprints the index of the first
  /// element in the whole tensor, times elem_bytes, as are the dims' dst strides.
  std::uint64_t dst = 0;
  std::int64_t run_bytes = 0;
  std::array<Dim, kMaxDims> dims;  ///< innermost first; only num_dims of them hold something
  int num_dims = 0;
  std::int64_t elem_bytes = 1;
  std::int64_t first_elem = 0;
  bool has_sum = false;
  bool has_target = true;

  [[nodiscard]] std::int64_t num_rows() const;
};

/// How the rows of a box are cut into units.
struct UnitChoice {
  UnitKind kind = UnitKind::kWindow;
  std::int64_t width_bytes = 1;  ///< of a window; of one access of an element
  std::int64_t step_bytes = 1;
  std::int64_t word_bytes = 1;
  std::int64_t units_per_row = 1;
};

/// Turns a copy that is inside its buffers into runs, whatever its dimensions look like.
/// Errors: InternalError when the box has more than 2^63 bytes.
[[nodiscard]] ByteBox to_byte_box(const BoundCopy& bound, SumTerm term);

/// Chooses the widest accesses that alignment and the length of the runs allow.
[[nodiscard]] UnitChoice choose_units(const ByteBox& box);

}  // namespace dynatrain
