#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// The most dimensions a logical tensor may have.
inline constexpr int kMaxDims = 8;

/// Up to kMaxDims integers held in place: a shape, a coordinate or strides. Rank 0 is a scalar.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<std::int64_t> values);
  /// Errors: LayoutError when there are more than kMaxDims values.
  explicit Dims(std::span<const std::int64_t> values);
  /// `rank` copies of `value`.
  static Dims filled(int rank, std::int64_t value);

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] std::int64_t& operator[](int dim) { return values_[static_cast<std::size_t>(dim)]; }
  [[nodiscard]] std::int64_t operator[](int dim) const {
    return values_[static_cast<std::size_t>(dim)];
  }
  [[nodiscard]] std::span<const std::int64_t> values() const {
    return {values_.data(), static_cast<std::size_t>(rank_)};
  }
  /// "[4, 16]", for messages.
  [[nodiscard]] std::string to_string() const;

  friend bool operator==(const Dims& a, const Dims& b);
  friend std::strong_ordering operator<=>(const Dims& a, const Dims& b);

 private:
  std::array<std::int64_t, kMaxDims> values_{};
  int rank_ = 0;
};

using Shape = Dims;
using Strides = Dims;

/// Elements of a dense tensor of this shape; 1 for a scalar. Errors: LayoutError on overflow.
[[nodiscard]] std::int64_t num_elements(const Shape& shape);
/// Strides, in elements, of a dense row-major tensor of this shape.
[[nodiscard]] Strides row_major_strides(const Shape& shape);

/// A half-open range [begin, end) of one dimension, in elements.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t size() const { return end > begin ? end - begin : 0; }
  [[nodiscard]] bool empty() const { return end <= begin; }
  friend auto operator<=>(const Interval&, const Interval&) = default;
};

/// A half-open N-d interval of a logical tensor, in global elements. A scalar's box has rank 0 and
/// one element. Ordered by begin, then end, so that sorted lists are the same on every rank.
struct Box {
  Dims begin;
  Dims end;

  [[nodiscard]] int rank() const { return begin.rank(); }
  [[nodiscard]] Interval dim(int d) const { return {begin[d], end[d]}; }
  [[nodiscard]] Shape shape() const;
  [[nodiscard]] std::int64_t num_elements() const;
  [[nodiscard]] bool empty() const;
  [[nodiscard]] std::string to_string() const;

  /// The box that covers a whole tensor of `shape`.
  static Box whole(const Shape& shape);

  friend bool operator==(const Box&, const Box&) = default;
  friend std::strong_ordering operator<=>(const Box&, const Box&) = default;
};

/// Returns the elements that `a` and `b` both cover, or nothing when they share none.
/// Shapes   both boxes index the same tensor, so both have rank R; LayoutError if ranks differ.
[[nodiscard]] std::optional<Box> intersect(const Box& a, const Box& b);
/// True when `outer` covers every element of `inner` (an empty inner is always covered).
[[nodiscard]] bool contains(const Box& outer, const Box& inner);
/// Returns `a` without `b` as at most 2R disjoint boxes, sorted.
[[nodiscard]] std::vector<Box> subtract(const Box& a, const Box& b);
/// Returns what `boxes` leave uncovered of `whole`, as disjoint boxes, sorted; empty = covered.
[[nodiscard]] std::vector<Box> uncovered(const Box& whole, std::span<const Box> boxes);

/// Two boxes that share an element.
struct BoxPair {
  Box first;
  Box second;
};
/// Returns two of `boxes` that overlap, or nothing when they are disjoint. Empty boxes overlap
/// none. Cost     O(n log n) when the boxes are rows of the first dimension, O(n^2) at worst.
[[nodiscard]] std::optional<BoxPair> first_overlap(std::span<const Box> boxes);

/// Returns the elements [flat.begin, flat.end) of a row-major tensor of `shape` as boxes.
/// Shapes   the boxes have the rank R of `shape`, are disjoint, in row-major order, at most 2R-1.
/// Errors   LayoutError when the range is not inside the tensor.
[[nodiscard]] std::vector<Box> flat_range_to_boxes(const Shape& shape, Interval flat);

}  // namespace dynatrain
