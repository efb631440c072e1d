#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include "fuzz/target.hpp"
#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

/// Shard maps that the bytes of an input choose: every kind of sharding, sizes that divide nothing,
/// and boxes without an owner.
namespace dynatrain::fuzz {

inline constexpr int kMostRanks = 6;

using SharedSharding = std::shared_ptr<const Sharding>;

[[nodiscard]] inline std::vector<int> drawn_ranks(Draws& draws) {
  std::vector<int> ranks;
  const int first = draws.small(0, kMostRanks - 1);
  const int step = draws.one_in(2) ? 5 : 1;  // 5 goes round all six backwards
  for (int left = draws.small(1, kMostRanks); left > 0; --left) {
    ranks.push_back((first + step * left) % kMostRanks);
  }
  return ranks;
}

[[nodiscard]] inline SharedSharding drawn_compact(Draws& draws, const Shape& shape) {
  Mesh mesh{{}, drawn_ranks(draws)};
  const auto size = static_cast<int>(mesh.ranks.size());
  const int outer = draws.small(1, size);
  mesh.shape = size % outer == 0 ? std::vector<int>{outer, size / outer} : std::vector<int>{size};
  std::vector<Placement> placements(mesh.shape.size());
  for (Placement& placement : placements) {
    if (draws.one_in(2)) {
      placement = {Placement::Kind::kShard, draws.small(0, shape.rank()), draws.number(1, 5)};
    }
  }
  return make_compact_sharding(std::move(mesh), std::move(placements));
}

[[nodiscard]] inline SharedSharding drawn_flat(Draws& draws, const Shape& shape) {
  std::vector<int> ranks = drawn_ranks(draws);
  std::vector<std::int64_t> bounds(ranks.size() + 1);
  std::ranges::generate(bounds, [&] { return draws.number(0, num_elements(shape)); });
  std::ranges::sort(bounds);
  std::vector<std::int64_t> offsets(ranks.size());
  std::ranges::generate(offsets, [&] { return draws.number(0, 40); });
  return make_flat_sharding(shape, ranks, bounds, offsets);
}

[[nodiscard]] inline SharedSharding drawn_table(Draws& draws, const Shape& shape) {
  std::map<int, std::vector<Fragment>> table;
  for (int left = draws.small(1, 8); left > 0; --left) {
    Box box = Box::whole(shape);
    for (int d = 0; d < shape.rank(); ++d) {
      box.begin[d] = draws.number(0, shape[d]);
      box.end[d] = draws.number(0, shape[d]);
    }
    const Strides strides = row_major_strides(draws.one_in(2) ? shape : box.shape());
    table[draws.small(0, kMostRanks - 1)].push_back({box, {draws.number(0, 200), strides}});
  }
  return make_table_sharding(std::move(table));
}

[[nodiscard]] inline SharedSharding drawn_sharding(Draws& draws,
                                                   const Shape& shape,
                                                   int depth = 0) {
  switch (draws.small(0, depth == 0 ? 4 : 3)) {
    case 0:
      return make_replicated_sharding(drawn_ranks(draws));
    case 1:
      return drawn_flat(draws, shape);
    case 2:
      return drawn_table(draws, shape);
    case 3:
      return drawn_compact(draws, shape);
    default:
      return make_union_sharding(
          {drawn_sharding(draws, shape, 1), drawn_sharding(draws, shape, 1)});
  }
}

/// Two maps over the same tensors. Errors: as their shardings.
[[nodiscard]] inline std::pair<ShardMap, ShardMap> drawn_pair(Draws& draws) {
  std::vector<ShardMap::Entry> source;
  std::vector<ShardMap::Entry> target;
  for (int left = draws.small(1, 3); left > 0; --left) {
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(draws.small(0, 3)));
    std::ranges::generate(sizes, [&] { return draws.number(0, 7); });
    const LogicalTensor tensor{"t" + std::to_string(left),
                               Shape(std::span<const std::int64_t>(sizes)),
                               {"bytes", draws.number(1, 16)}};
    source.push_back({tensor, drawn_sharding(draws, tensor.shape)});
    target.push_back(
        {tensor, draws.one_in(5) ? source.back().sharding : drawn_sharding(draws, tensor.shape)});
  }
  return {ShardMap(std::move(source)), ShardMap(std::move(target))};
}

/// Inputs that draw pairs which are accepted.
[[nodiscard]] inline std::vector<std::string> seeds_of_pairs() {
  std::vector<std::string> all;
  for (const char kind : {'\0', '\1', '\2', '\3', '\4'}) {
    std::string seed;
    for (int i = 0; i < 90; ++i) {
      seed += static_cast<char>(i % 7 == 0 ? kind : i * 5 % 11);
    }
    all.push_back(seed);
  }
  return all;
}

}  // namespace dynatrain::fuzz
