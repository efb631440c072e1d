#pragma once

#include "dynatrain/geometry/box.hpp"
#include "dynatrain/geometry/view.hpp"

#include <algorithm>
#include <cstdint>

namespace dynatrain {

/// Calls visit(src_elems, dst_elems, count, at) for every piece of an innermost row within `elems`:
/// the element offsets of its first element on both sides, its length, its place in row-major
/// order.
template <class Visit>
void for_each_run(const StridedCopy& copy, Interval elems, Visit visit) {
  const int last = copy.extents.rank() - 1;
  const std::int64_t row_elems = copy.extents[last];
  Dims coordinate = Dims::filled(last + 1, 0);
  std::int64_t rest = elems.begin;
  std::int64_t src = 0;
  std::int64_t dst = 0;
  for (int d = last; d >= 0; --d) {
    coordinate[d] = rest % copy.extents[d];
    rest /= copy.extents[d];
    if (d != last) {
      src += coordinate[d] * copy.src_strides[d];
      dst += coordinate[d] * copy.dst_strides[d];
    }
  }
  std::int64_t in_row = coordinate[last];
  for (std::int64_t at = elems.begin; at < elems.end;) {
    const std::int64_t count = std::min(row_elems - in_row, elems.end - at);
    visit(src + in_row * copy.src_strides[last], dst + in_row * copy.dst_strides[last], count, at);
    at += count;
    in_row = 0;
    for (int d = last - 1; d >= 0; --d) {
      src += copy.src_strides[d];
      dst += copy.dst_strides[d];
      if (++coordinate[d] < copy.extents[d]) {
        break;
      }
      src -= coordinate[d] * copy.src_strides[d];
      dst -= coordinate[d] * copy.dst_strides[d];
      coordinate[d] = 0;
    }
  }
}

}  // namespace dynatrain
