#include "plan/merge.hpp"

#include <algorithm>

namespace dynatrain {
namespace {

/// Orders by every dimension but `dim`, then by `dim`, so that neighbours along it come together.
bool comes_before(const Box& a, const Box& b, int dim) {
  for (int d = 0; d < a.rank(); ++d) {
    if (d != dim && a.dim(d) != b.dim(d)) {
      return a.dim(d) < b.dim(d);
    }
  }
  return a.dim(dim) < b.dim(dim);
}

bool joins(const Box& a, const Box& b, int dim) {
  for (int d = 0; d < a.rank(); ++d) {
    if (d != dim && a.dim(d) != b.dim(d)) {
      return false;
    }
  }
  return a.end[dim] == b.begin[dim];
}

}  // namespace

std::vector<Box> merge_neighbours(std::vector<Box> boxes) {
  if (boxes.size() < 2) {
    return boxes;
  }
  for (int dim = boxes.front().rank() - 1; dim >= 0; --dim) {
    std::ranges::sort(boxes, [dim](const Box& a, const Box& b) { return comes_before(a, b, dim); });
    std::vector<Box> merged;
    for (const Box& box : boxes) {
      if (!merged.empty() && joins(merged.back(), box, dim)) {
        merged.back().end[dim] = box.end[dim];
      } else {
        merged.push_back(box);
      }
    }
    boxes = std::move(merged);
  }
  std::ranges::sort(boxes);
  return boxes;
}

}  // namespace dynatrain
