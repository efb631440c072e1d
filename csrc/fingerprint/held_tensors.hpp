#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dynatrain {

/// A tensor of which one rank holds fragments.
struct HeldTensor {
  TensorId id;
  std::vector<Fragment> fragments;  ///< of that rank
  std::vector<OwnedBox> owned;      ///< of all ranks
};

/// Calls `visit` with each tensor of which `rank` holds fragments, in the map's order. The boxes of
/// one tensor at a time are kept: a map of many ranks has far more of them than of tensors.
template <class Visit>
void for_each_held(const ShardMap& map, int rank, const Visit& visit) {
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    std::vector<Fragment> fragments = map.fragments(id, rank);
    if (!fragments.empty()) {
      visit(HeldTensor{id, std::move(fragments), map.owned_boxes(id)});
    }
  }
}

}  // namespace dynatrain
