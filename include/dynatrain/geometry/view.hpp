#pragma once

#include "dynatrain/geometry/box.hpp"

#include <cstdint>
#include <vector>

namespace dynatrain {

/// Where a box's elements lie inside a buffer: element (i0, i1, ...) of the box is at
/// offset_elems + sum(i_d * strides[d]). Strides may be 0 or any order, never negative.
struct View {
  std::int64_t offset_elems = 0;
  Strides strides;

  friend bool operator==(const View&, const View&) = default;
};

/// Returns the view of `inner`, which `outer` contains, given the view of `outer`.
[[nodiscard]] View sub_view(const Box& outer, const View& view, const Box& inner);

/// True when the elements of a box of `shape` lie one after another in row-major order.
[[nodiscard]] bool is_contiguous(const Shape& shape, const Strides& strides);

/// One copy of equally shaped strided regions, collapsed: neighbouring dimensions that advance
/// together on both sides are one, dimensions of size 1 are gone; the innermost may have stride 1
/// on both sides, its extent is then the contiguous run.
struct StridedCopy {
  Dims extents;
  std::int64_t src_offset_elems = 0;
  std::int64_t dst_offset_elems = 0;
  Strides src_strides;
  Strides dst_strides;
};

/// Collapses a copy of a box of `shape` from `src` to `dst`. Cost: O(R). An empty shape gives
/// rank 1 and extent 0; a scalar gives rank 1 and extent 1.
[[nodiscard]] StridedCopy collapse(const Shape& shape, const View& src, const View& dst);

}  // namespace dynatrain
