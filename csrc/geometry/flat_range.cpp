#include "dynatrain/base/error.hpp"
#include "dynatrain/geometry/box.hpp"

#include <algorithm>

namespace dynatrain {
namespace {

/// Appends [range.begin, range.end), counted from the first element of `row`, which fixes the
/// dimensions before `dim` and is whole in the others.
void append_range(std::vector<Box>& out, Box row, int dim, Interval range) {
  if (range.empty()) {
    return;
  }
  if (dim == row.rank()) {
    out.push_back(row);
    return;
  }
  std::int64_t slab_size = 1;
  for (int d = dim + 1; d < row.rank(); ++d) {
    slab_size *= row.end[d];
  }
  const std::int64_t first = range.begin / slab_size;
  const std::int64_t last = (range.end - 1) / slab_size;
  const auto append_partial = [&](std::int64_t slab) {
    Box inner = row;
    inner.begin[dim] = slab;
    inner.end[dim] = slab + 1;
    const std::int64_t origin = slab * slab_size;
    append_range(
        out,
        inner,
        dim + 1,
        {std::max<std::int64_t>(range.begin - origin, 0), std::min(range.end - origin, slab_size)});
  };
  const bool head_is_partial = range.begin % slab_size != 0;
  const bool tail_is_partial = range.end % slab_size != 0;
  if (first == last && (head_is_partial || tail_is_partial)) {
    append_partial(first);
    return;
  }
  if (head_is_partial) {
    append_partial(first);
  }
  Box middle = row;
  middle.begin[dim] = head_is_partial ? first + 1 : first;
  middle.end[dim] = tail_is_partial ? last : last + 1;
  if (!middle.dim(dim).empty()) {
    out.push_back(middle);
  }
  if (tail_is_partial) {
    append_partial(last);
  }
}

}  // namespace

std::vector<Box> flat_range_to_boxes(const Shape& shape, Interval flat) {
  const std::int64_t size = num_elements(shape);
  if (flat.begin < 0 || flat.begin > flat.end || flat.end > size) {
    throw LayoutError("geometry: cannot cut elements " + std::to_string(flat.begin) + ":" +
                      std::to_string(flat.end) + " out of a flat tensor\n  shape " +
                      shape.to_string() + " has " + std::to_string(size) +
                      " elements\n  nothing was moved\n  keep padding of flat buffers out of the "
                      "range: it belongs to no logical tensor");
  }
  std::vector<Box> boxes;
  append_range(boxes, Box::whole(shape), 0, flat);
  return boxes;
}

}  // namespace dynatrain
