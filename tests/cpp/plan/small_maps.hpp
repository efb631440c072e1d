#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

/// Shorthand for the maps that unit tests spell out.
namespace dynatrain::testing {

inline std::vector<int> first_ranks(int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Rows of a tensor cut over ranks 0 ... count - 1.
inline std::shared_ptr<const Sharding> cut_rows(int count) {
  return make_compact_sharding({{count}, first_ranks(count)}, {{Placement::Kind::kShard, 0, 1}});
}

/// Columns of a tensor cut over ranks 0 ... count - 1.
inline std::shared_ptr<const Sharding> cut_columns(int count) {
  return make_compact_sharding({{count}, first_ranks(count)}, {{Placement::Kind::kShard, 1, 1}});
}

/// A map of float32 tensors that all have one shape and one sharding, named `names`.
inline ShardMap equal_tensors(const std::vector<std::string>& names,
                              const Shape& shape,
                              const std::shared_ptr<const Sharding>& sharding) {
  std::vector<ShardMap::Entry> entries;
  for (const std::string& name : names) {
    entries.push_back({{name, shape, {"float32", 4}}, sharding});
  }
  return ShardMap(std::move(entries));
}

/// Rows, columns, rows of two replicas or whole copies, on up to 16 ranks.
inline std::shared_ptr<const Sharding> any_sharding(std::mt19937& random) {
  const int count = static_cast<int>(1 + random() % 8);
  switch (random() % 4) {
    case 0:
      return cut_rows(count);
    case 1:
      return cut_columns(count);
    case 2:
      return make_compact_sharding(
          {{2, count}, first_ranks(2 * count)},
          {{Placement::Kind::kReplicate, 0, 1}, {Placement::Kind::kShard, 0, 1}});
    default:
      return make_replicated_sharding(first_ranks(count));
  }
}

inline std::vector<std::string> numbered_names(int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    names.push_back("layer." + std::to_string(i) + "|param");
  }
  return names;
}

}  // namespace dynatrain::testing
