#pragma once

#include "dynatrain/geometry/box.hpp"

#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <vector>

namespace dynatrain::testing {

/// A coordinate of a small tensor, spelled out. The oracle of the room: it walks elements one by
/// one and shares no arithmetic with boxes.
using Coordinate = std::vector<std::int64_t>;

/// All coordinates of a tensor of these extents in row-major order.
inline std::vector<Coordinate> all_coordinates(const std::vector<std::int64_t>& extents) {
  std::vector<Coordinate> coordinates{{}};
  for (const std::int64_t extent : extents) {
    std::vector<Coordinate> longer;
    for (const Coordinate& prefix : coordinates) {
      for (std::int64_t i = 0; i < extent; ++i) {
        longer.push_back(prefix);
        longer.back().push_back(i);
      }
    }
    coordinates = std::move(longer);
  }
  return coordinates;
}

inline bool covers(const Box& box, const Coordinate& at) {
  for (std::size_t d = 0; d < at.size(); ++d) {
    const int dim = static_cast<int>(d);
    if (at[d] < box.begin[dim] || at[d] >= box.end[dim]) {
      return false;
    }
  }
  return true;
}

/// How many of `boxes` cover `at`.
inline int times_covered(std::span<const Box> boxes, const Coordinate& at) {
  int times = 0;
  for (const Box& box : boxes) {
    times += covers(box, at) ? 1 : 0;
  }
  return times;
}

/// Random extents of a tensor small enough to walk; now and then a scalar or an empty one.
inline std::vector<std::int64_t> random_extents(std::mt19937_64& random) {
  std::vector<std::int64_t> extents(random() % 4);
  for (std::int64_t& extent : extents) {
    extent = static_cast<std::int64_t>(random() % 7);
  }
  return extents;
}

inline Dims dims_of(const std::vector<std::int64_t>& values) {
  return Dims(std::span<const std::int64_t>(values));
}

/// A random box in and around a tensor of these extents; often empty or partly outside.
inline Box random_box(std::mt19937_64& random, const std::vector<std::int64_t>& extents) {
  Coordinate begin;
  Coordinate end;
  for (const std::int64_t extent : extents) {
    const auto places = static_cast<std::uint64_t>(extent) + 2;
    begin.push_back(static_cast<std::int64_t>(random() % places));
    end.push_back(begin.back() + static_cast<std::int64_t>(random() % places));
  }
  return {dims_of(begin), dims_of(end)};
}

}  // namespace dynatrain::testing
