#include "dynatrain/geometry/view.hpp"

#include "dynatrain/base/error.hpp"

#include <array>

namespace dynatrain {

View sub_view(const Box& outer, const View& view, const Box& inner) {
  DYNATRAIN_CHECK(contains(outer, inner),
                  "box " + inner.to_string() + " is not inside " + outer.to_string());
  View result = view;
  for (int d = 0; d < outer.rank(); ++d) {
    result.offset_elems += (inner.begin[d] - outer.begin[d]) * view.strides[d];
  }
  return result;
}

bool is_contiguous(const Shape& shape, const Strides& strides) {
  DYNATRAIN_CHECK(shape.rank() == strides.rank(),
                  "shape " + shape.to_string() + " and strides " + strides.to_string());
  std::int64_t run = 1;
  bool dense = true;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] == 0) {
      return true;
    }
    dense = dense && (shape[d] == 1 || strides[d] == run);
    run *= shape[d];
  }
  return dense;
}

namespace {

/// True when, in both views, one step along `outer` is `extent` steps along `inner`.
bool goes_on(const View& src, const View& dst, int outer, int inner, std::int64_t extent) {
  return src.strides[outer] == src.strides[inner] * extent &&
         dst.strides[outer] == dst.strides[inner] * extent;
}

}  // namespace

StridedCopy collapse(const Shape& shape, const View& src, const View& dst) {
  DYNATRAIN_CHECK(shape.rank() == src.strides.rank() && shape.rank() == dst.strides.rank(),
                  "views of a box of shape " + shape.to_string() + " have strides " +
                      src.strides.to_string() + " and " + dst.strides.to_string());
  StridedCopy copy{Dims::filled(1, 1),
                   src.offset_elems,
                   dst.offset_elems,
                   Dims::filled(1, 1),
                   Dims::filled(1, 1)};
  if (num_elements(shape) == 0) {
    copy.extents = {0};
    return copy;
  }
  // Innermost first: `count` groups so far, the last of which may still grow outwards.
  std::array<std::int64_t, kMaxDims> extents{};
  std::array<int, kMaxDims> innermost_dim{};
  int count = 0;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] == 1) {
      continue;
    }
    if (count > 0) {
      const auto last = static_cast<std::size_t>(count - 1);
      const int base = innermost_dim[last];
      if (goes_on(src, dst, d, base, extents[last])) {
        extents[last] *= shape[d];
        continue;
      }
    }
    extents[static_cast<std::size_t>(count)] = shape[d];
    innermost_dim[static_cast<std::size_t>(count)] = d;
    ++count;
  }
  if (count == 0) {
    return copy;
  }
  copy.extents = copy.src_strides = copy.dst_strides = Dims::filled(count, 0);
  for (int group = 0; group < count; ++group) {
    const auto from = static_cast<std::size_t>(count - 1 - group);
    copy.extents[group] = extents[from];
    copy.src_strides[group] = src.strides[innermost_dim[from]];
    copy.dst_strides[group] = dst.strides[innermost_dim[from]];
  }
  return copy;
}

}  // namespace dynatrain
