#pragma once

#include "dynatrain/geometry/box.hpp"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

/// Elements of boxes of two dimensions, and how many boxes have each.
namespace dynatrain::fuzz {

using Counts = std::map<std::pair<std::int64_t, std::int64_t>, int>;

[[nodiscard]] inline Counts counts_of(const std::vector<Box>& boxes) {
  Counts counts;
  for (const Box& box : boxes) {
    for (std::int64_t i = box.begin[0]; i < box.end[0]; ++i) {
      for (std::int64_t j = box.begin[1]; j < box.end[1]; ++j) {
        ++counts[{i, j}];
      }
    }
  }
  return counts;
}

}  // namespace dynatrain::fuzz
