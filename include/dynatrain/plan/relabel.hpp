#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace dynatrain {

/// Who takes which place of a target, and what that leaves to be moved.
struct Relabelling {
  /// By place: the rank that takes it. As long as the ranks that there were to choose from: the
  /// last ones take no place.
  std::vector<int> ranks;
  std::int64_t moved_bytes = 0;      ///< what ranks need and lack
  std::int64_t moved_far_bytes = 0;  ///< the part of it that no rank of their node has
  std::int64_t natural_moved_bytes = 0;
  std::int64_t natural_moved_far_bytes = 0;
};

/// Gives each place of a target to a rank that has much of what belongs there.
///
/// Two levels. What naturally sits on one node stays together, as groups of tensor and context
/// parallelism want it: such blocks are given to nodes with as many ranks, so that most bytes need
/// not cross between nodes; within a node, places go to ranks so that most need not move at all.
/// Never worse than the natural order, in bytes moved and in those between nodes; that order stays
/// where less than a twentieth of either is gained.
///
/// `ranks`  who there is, in natural order: `ranks[p]` sits at place p where nothing is relabelled,
///          and by these numbers `target` knows its places. Those beyond its places idle.
/// Errors   LayoutError when the maps' tensors differ, a needed box has no owner, `ranks` repeat,
///          or the record or `ranks` do not reach a rank of the maps' places.
/// Cost     the cells of the whole world, per distinct (shape, sharding pair), twice; a cubic
///          assignment of blocks to nodes and of the places of each. Above 1,024 of either the
///          natural order stays at that level.
/// Source   own; docs/design/plan.md, "Relabelling".
[[nodiscard]] Relabelling relabel(const ShardMap& source,
                                  const ShardMap& target,
                                  const DecisionRecord& record,
                                  std::span<const int> ranks);

}  // namespace dynatrain
