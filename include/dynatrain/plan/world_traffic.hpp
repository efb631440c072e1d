#pragma once

#include "dynatrain/base/strong_id.hpp"
#include "dynatrain/geometry/box.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace dynatrain {

/// What has to be sent of all cells that have the same owners.
struct Demand {
  std::vector<int> owners;      ///< ascending
  std::int64_t size_bytes = 0;  ///< of each cell, once for every rank that needs and lacks it
};

/// A whole switch, seen from nobody: what could be sent by whom, and the bytes that each rank would
/// send if senders were chosen by a rule simpler than `make_plan`'s.
struct WorldTraffic {
  std::vector<Demand> demands;             ///< by owners, each at most once
  std::vector<std::int64_t> first_owner;   ///< the lowest owner sends everything
  std::vector<std::int64_t> modulo;        ///< the n-th needer is served by owner n modulo owners
  std::vector<std::int64_t> least_loaded;  ///< cell after cell, the owner with the fewest bytes yet
};

/// Walks all cells of a switch, by tensor, then by place.
///
/// Errors   LayoutError as make_plan, for any rank.
/// Cost     the cells of the whole world, per distinct (shape, sharding pair); per tensor those of
///          them that cross. Nothing of it is computed by a live switch.
/// Source   own; docs/design/plan.md, "The whole world".
[[nodiscard]] WorldTraffic world_traffic(const ShardMap& source, const ShardMap& target);

/// A box of one tensor on which owners and needers are constant; both ascending, not empty.
struct WorldCell {
  Box box;
  std::vector<int> owners;
  std::vector<int> needers;
};

/// The cells of one tensor that anybody needs, by begin.
///
/// Errors   LayoutError when a cell has no owner.
/// Cost     O(boxes log boxes) per dimension, plus the cells.
[[nodiscard]] std::vector<WorldCell> cells_of(const ShardMap& source,
                                              const ShardMap& target,
                                              TensorId tensor);

/// A bound on what the busiest sender sends, and the ranks that prove it.
struct EgressBound {
  /// No choice of senders has a busiest one with fewer; reached by one that cuts cells anywhere,
  /// to a part in 2^61 of all bytes.
  std::int64_t size_bytes = 0;
  /// Ascending. What they alone own, and others need and lack, is at least `size_bytes` for each
  /// of them.
  std::vector<int> ranks;
};

/// The least possible busiest sender, when every needer is served by owners (unicast) and all links
/// are alike.
///
/// Errors   LayoutError when a demand has no owner, owners that do not ascend, or a size below 0.
/// Cost     a few maximum flows over demands and owners.
/// Source   own; docs/design/plan.md, "The whole world": Newton's method on the minimum cut.
[[nodiscard]] EgressBound least_egress(std::span<const Demand> demands);

}  // namespace dynatrain
