#pragma once

#include "dynatrain/plan/plan.hpp"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

/// Boxes as the elements that they have, counted one by one.
namespace dynatrain::fuzz {

using Element = std::pair<std::int64_t, std::vector<std::int64_t>>;  // tensor, global index
using ElementCounts = std::map<Element, int>;

inline void add_box(ElementCounts& counts, TensorId tensor, const Box& box) {
  if (box.empty()) {
    return;
  }
  Dims at = box.begin;
  for (int d = box.rank(); d >= 0;) {
    if (d == box.rank()) {
      ++counts[{tensor.value, {at.values().begin(), at.values().end()}}];
      --d;
    } else if (++at[d] < box.end[d]) {
      d = box.rank();
    } else {
      at[d] = box.begin[d];
      --d;
    }
  }
}

inline void add_moves(ElementCounts& counts, const std::vector<Move>& moves) {
  for (const Move& move : moves) {
    add_box(counts, move.tensor, move.box);
  }
}

[[nodiscard]] inline ElementCounts needed_by(const ShardMap& map, int rank) {
  ElementCounts counts;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    for (const Fragment& fragment : map.fragments(id, rank)) {
      add_box(counts, id, fragment.box);
    }
  }
  return counts;
}

/// Whether each of `elements` lies at some rank.
[[nodiscard]] inline bool holds_all(const ShardMap& map, const ElementCounts& elements) {
  ElementCounts held;
  for (int rank = 0; rank < map.num_ranks(); ++rank) {
    held.merge(needed_by(map, rank));
  }
  return std::ranges::all_of(elements, [&](const auto& each) { return held.contains(each.first); });
}

}  // namespace dynatrain::fuzz
