#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dynatrain {

/// A square matrix of what each row gains with each column, none below 0.
class Gains {
 public:
  explicit Gains(std::size_t size) : size_(size), values_(size * size, 0) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::int64_t at(std::size_t row, std::size_t column) const {
    return values_[row * size_ + column];
  }
  void add(std::size_t row, std::size_t column, std::int64_t gain);

 private:
  std::size_t size_;
  std::vector<std::int64_t> values_;
};

/// The column of each row, each taken once, with the largest sum of gains; of such, one in which as
/// many rows as possible have the column of their own number.
/// Cost    O(size^3).
/// Source  Kuhn and Munkres's method, in the form of Jonker and Volgenant: shortest augmenting
///         paths, row by row.
[[nodiscard]] std::vector<std::size_t> best_assignment(const Gains& gains);

}  // namespace dynatrain
