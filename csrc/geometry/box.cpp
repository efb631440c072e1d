#include "dynatrain/geometry/box.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"

#include <algorithm>

namespace dynatrain {
namespace {

void check_same_rank(const Box& a, const Box& b) {
  if (a.rank() != b.rank()) {
    throw LayoutError("geometry: cannot compare boxes of different tensors\n  " + a.to_string() +
                      " has rank " + std::to_string(a.rank()) + ", " + b.to_string() +
                      " has rank " + std::to_string(b.rank()) +
                      "\n  nothing was moved\n  give both boxes in the coordinates of one tensor");
  }
}

}  // namespace

Dims::Dims(std::initializer_list<std::int64_t> values)
    : Dims(std::span<const std::int64_t>(values.begin(), values.size())) {}

Dims::Dims(std::span<const std::int64_t> values) : rank_(static_cast<int>(values.size())) {
  if (values.size() > static_cast<std::size_t>(kMaxDims)) {
    throw LayoutError("geometry: cannot hold a tensor of " + std::to_string(values.size()) +
                      " dimensions\n  at most " + std::to_string(kMaxDims) +
                      " are supported\n  nothing was moved\n  join dimensions that are cut alike");
  }
  std::copy(values.begin(), values.end(), values_.begin());
}

Dims Dims::filled(int rank, std::int64_t value) {
  const std::vector<std::int64_t> values(static_cast<std::size_t>(rank), value);
  return Dims(std::span<const std::int64_t>(values));
}

std::string Dims::to_string() const {
  std::string text = "[";
  for (const std::int64_t value : values()) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(value);
  }
  return text + "]";
}

bool operator==(const Dims& a, const Dims& b) {
  return std::ranges::equal(a.values(), b.values());
}

std::strong_ordering operator<=>(const Dims& a, const Dims& b) {
  const auto left = a.values();
  const auto right = b.values();
  return std::lexicographical_compare_three_way(
      left.begin(), left.end(), right.begin(), right.end());
}

std::int64_t num_elements(const Shape& shape) {
  // Asked first: [2^40, 2^40, 0] has no element although its leading product fits nowhere.
  if (std::ranges::find(shape.values(), 0) != shape.values().end()) {
    return 0;
  }
  std::int64_t count = 1;
  for (const std::int64_t extent : shape.values()) {
    count = checked_mul(count, extent);
  }
  return count;
}

Strides row_major_strides(const Shape& shape) {
  Strides strides = Dims::filled(shape.rank(), 1);
  for (int d = shape.rank() - 2; d >= 0; --d) {
    strides[d] = checked_mul(strides[d + 1], std::max<std::int64_t>(shape[d + 1], 1));
  }
  return strides;
}

Shape Box::shape() const {
  Shape extents = begin;
  for (int d = 0; d < rank(); ++d) {
    extents[d] = dim(d).size();
  }
  return extents;
}

std::int64_t Box::num_elements() const {
  return dynatrain::num_elements(shape());
}

bool Box::empty() const {
  for (int d = 0; d < rank(); ++d) {
    if (dim(d).empty()) {
      return true;
    }
  }
  return false;
}

std::string Box::to_string() const {
  std::string text = "[";
  for (int d = 0; d < rank(); ++d) {
    text += (d > 0 ? ", " : "") + std::to_string(begin[d]) + ":" + std::to_string(end[d]);
  }
  return text + "]";
}

Box Box::whole(const Shape& shape) {
  return {Dims::filled(shape.rank(), 0), shape};
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  check_same_rank(a, b);
  for (int d = 0; d < a.rank(); ++d) {
    if (std::max(a.begin[d], b.begin[d]) >= std::min(a.end[d], b.end[d])) {
      return std::nullopt;
    }
  }
  Box shared = a;
  for (int d = 0; d < a.rank(); ++d) {
    shared.begin[d] = std::max(a.begin[d], b.begin[d]);
    shared.end[d] = std::min(a.end[d], b.end[d]);
  }
  return shared;
}

bool contains(const Box& outer, const Box& inner) {
  check_same_rank(outer, inner);
  if (inner.empty()) {
    return true;
  }
  for (int d = 0; d < outer.rank(); ++d) {
    if (inner.begin[d] < outer.begin[d] || inner.end[d] > outer.end[d]) {
      return false;
    }
  }
  return true;
}

std::vector<Box> subtract(const Box& a, const Box& b) {
  const std::optional<Box> shared = intersect(a, b);
  if (!shared) {
    return a.empty() ? std::vector<Box>{} : std::vector<Box>{a};
  }
  // Peel the two sides of every dimension off; what is left in the end is the shared box.
  std::vector<Box> pieces;
  Box rest = a;
  for (int d = 0; d < a.rank(); ++d) {
    if (rest.begin[d] < shared->begin[d]) {
      pieces.push_back(rest);
      pieces.back().end[d] = shared->begin[d];
    }
    if (shared->end[d] < rest.end[d]) {
      pieces.push_back(rest);
      pieces.back().begin[d] = shared->end[d];
    }
    rest.begin[d] = shared->begin[d];
    rest.end[d] = shared->end[d];
  }
  std::ranges::sort(pieces);
  return pieces;
}

}  // namespace dynatrain
