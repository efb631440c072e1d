#include "execution/process_runs.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace dynatrain {
namespace {

/// As much as is read at once.
constexpr std::int64_t kBlockBytes = 64LL << 10U;
/// Bytes that are read in the time that one more piece takes.
constexpr std::int64_t kPieceBytes = 4LL << 10U;
/// Bytes that are read in the time that messages take for one.
constexpr std::int64_t kReadInTimeOfMessage = 8;

/// The dimensions of a box from the last up to that which advances least in the source.
struct Inner {
  std::int64_t elems = 1;  ///< that they have
  std::int64_t reach = 1;  ///< of the source, in elements
  std::int64_t least = 0;  ///< stride of the one that advances least; 0 where all have one element
  bool is_a_row = true;    ///< no other one is behind it
};

Inner inner_of(const Box& box, const Strides& strides) {
  Inner inner;
  Inner so_far;
  for (int d = box.rank() - 1; d >= 0; --d) {
    if (box.dim(d).size() == 1) {
      continue;
    }
    so_far.elems *= box.dim(d).size();
    so_far.reach += (box.dim(d).size() - 1) * strides[d];
    if (inner.least == 0 || strides[d] < inner.least) {
      so_far.is_a_row = inner.least == 0;
      so_far.least = strides[d];
      inner = so_far;
    }
  }
  return inner;
}

/// Elements from one row to the next one; the highest number where there is no other.
std::int64_t step_between_rows(const Box& box, const Strides& strides, std::int64_t least) {
  std::int64_t step = std::numeric_limits<std::int64_t>::max();
  for (int d = 0; d < box.rank(); ++d) {
    if (box.dim(d).size() > 1 && strides[d] > least) {
      step = std::min(step, strides[d]);
    }
  }
  return step;
}

}  // namespace

std::int64_t cost_of_reading(const Box& box, const Strides& strides, std::int64_t elem_bytes) {
  const Inner inner = inner_of(box, strides);
  const std::int64_t rows = box.num_elements() / inner.elems;
  const std::int64_t reach_bytes = inner.reach * elem_bytes;
  if (!inner.is_a_row && reach_bytes > kBlockBytes) {
    // What is next to each other in the source is read far apart in time.
    return box.num_elements() * (elem_bytes + kPieceBytes);
  }
  const std::int64_t step = step_between_rows(box, strides, inner.least);
  const bool is_alone = step == std::numeric_limits<std::int64_t>::max();
  return rows * (is_alone || !inner.is_a_row
                     ? reach_bytes
                     : std::min(reach_bytes + kPieceBytes, step * elem_bytes));
}

bool are_messages_faster(std::int64_t cost, std::int64_t bytes) {
  return cost > kReadInTimeOfMessage * bytes;
}

}  // namespace dynatrain
