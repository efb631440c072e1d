#include "dynatrain/layout/shard_map.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::array<Axis, 3> kCutting{Axis::kDpShard, Axis::kPp, Axis::kTp};

/// By rank of the map, the first of those that differ from it along `axis` alone; -1 elsewhere.
std::vector<int> neighbours_along(const Layout& layout,
                                  Axis axis,
                                  std::span<const int> ranks,
                                  int num_ranks) {
  std::vector<int> first(static_cast<std::size_t>(num_ranks), -1);
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < num_ranks) {
      first[static_cast<std::size_t>(ranks[i])] = layout.group(static_cast<int>(i), {axis}).front();
    }
  }
  return first;
}

/// Whether some neighbours hold a box that others of them do not hold.
bool is_cut(const std::vector<OwnedBox>& boxes, const std::vector<int>& first, int size) {
  std::vector<int> num_holders(first.size(), 0);
  return std::ranges::any_of(boxes, [&](const OwnedBox& box) {
    std::ranges::fill(num_holders, 0);
    for (const int rank : box.ranks) {
      const int group = first[static_cast<std::size_t>(rank)];
      if (group >= 0) {
        ++num_holders[static_cast<std::size_t>(group)];
      }
    }
    return std::ranges::any_of(num_holders, [&](int num) { return num != 0 && num != size; });
  });
}

bool cuts_any(const ShardMap& map, const std::vector<int>& first, int size) {
  std::set<std::pair<Shape, const Sharding*>> seen;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id{static_cast<std::int64_t>(i)};
    const bool is_new = seen.insert({map.tensor(id).shape, &map.sharding(id)}).second;
    if (is_new && is_cut(map.owned_boxes(id), first, size)) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::vector<Axis> axes_without_cut(const ShardMap& map,
                                   const Layout& layout,
                                   std::span<const int> ranks) {
  std::vector<Axis> found;
  for (const Axis axis : kCutting) {
    const int size = layout.size(axis);
    if (size > 1 && !cuts_any(map, neighbours_along(layout, axis, ranks, map.num_ranks()), size)) {
      found.push_back(axis);
    }
  }
  return found;
}

}  // namespace dynatrain
