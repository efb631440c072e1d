#include "plan/assignment.hpp"

#include "dynatrain/base/checked.hpp"

#include <limits>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

/// Assigns row after row at the least cost; prices of rows and columns prove it.
class ShortestPaths {
 public:
  explicit ShortestPaths(const Gains& gains)
      : gains_(gains),
        size_(gains.size()),
        row_price_(size_, 0),
        column_price_(size_, 0),
        row_of_(size_, kNone),
        column_of_(size_, 0) {}

  std::vector<std::size_t> run() {
    for (std::size_t row = 0; row < size_; ++row) {
      assign(row);
    }
    return std::move(column_of_);
  }

 private:
  /// What is gained less than nothing; the own number is worth less than any byte.
  [[nodiscard]] std::int64_t cost(std::size_t row, std::size_t column) const {
    const std::int64_t weight = checked_add(static_cast<std::int64_t>(size_), 1);
    return -checked_add(checked_mul(gains_.at(row, column), weight), row == column ? 1 : 0);
  }
  [[nodiscard]] std::int64_t reduced(std::size_t row, std::size_t column) const {
    return cost(row, column) - row_price_[row] - column_price_[column];
  }

  /// Grows a tree of alternating paths from `root` until it reaches a free column.
  void assign(std::size_t root) {
    std::vector<std::int64_t> distance(size_, kFar);
    std::vector<std::size_t> from(size_, root);
    std::vector<bool> is_done(size_, false);
    std::vector<std::size_t> tree;
    std::size_t row = root;
    std::int64_t reached = 0;
    std::size_t column = 0;
    for (bool is_free = false; !is_free;) {
      for (std::size_t next = 0; next < size_; ++next) {
        const std::int64_t through = is_done[next] ? kFar : reached + reduced(row, next);
        if (through < distance[next]) {
          distance[next] = through;
          from[next] = row;
        }
      }
      column = nearest(distance, is_done);
      reached = distance[column];
      is_done[column] = true;
      is_free = row_of_[column] == kNone;
      if (!is_free) {
        tree.push_back(column);
        row = row_of_[column];
      }
    }
    row_price_[root] += reached;
    for (const std::size_t visited : tree) {
      const std::int64_t slack = reached - distance[visited];
      column_price_[visited] -= slack;
      row_price_[row_of_[visited]] += slack;
    }
    turn_over(root, column, from);
  }

  static std::size_t nearest(const std::vector<std::int64_t>& distance,
                             const std::vector<bool>& is_done) {
    std::size_t best = is_done.size();
    for (std::size_t column = 0; column < is_done.size(); ++column) {
      if (!is_done[column] && (best == is_done.size() || distance[column] < distance[best])) {
        best = column;
      }
    }
    return best;
  }

  /// Along the path each row leaves its column to the one before, and takes the next one.
  void turn_over(std::size_t root, std::size_t column, const std::vector<std::size_t>& from) {
    for (std::size_t row = from[column]; row != root; row = from[column]) {
      const std::size_t left = column_of_[row];
      pair(row, column);
      column = left;
    }
    pair(root, column);
  }

  void pair(std::size_t row, std::size_t column) {
    row_of_[column] = row;
    column_of_[row] = column;
  }

  const Gains& gains_;
  std::size_t size_;
  std::vector<std::int64_t> row_price_;
  std::vector<std::int64_t> column_price_;
  std::vector<std::size_t> row_of_;     ///< by column
  std::vector<std::size_t> column_of_;  ///< by row, of those that have one
};

}  // namespace

void Gains::add(std::size_t row, std::size_t column, std::int64_t gain) {
  std::int64_t& value = values_[row * size_ + column];
  value = checked_add(value, gain);
}

std::vector<std::size_t> best_assignment(const Gains& gains) {
  return ShortestPaths(gains).run();
}

}  // namespace dynatrain
