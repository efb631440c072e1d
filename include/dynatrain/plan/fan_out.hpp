#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dynatrain {

/// Where copies of a box are fewer in the source than ranks that lack it, every owner sends it
/// several times. Handed on, it goes out once, in slices, and those that lack it give each other
/// the rest: two passes, each a plan and a schedule of its own, both into the target's memory.
///
///     source --- make_plan(source, scattered) ---> scattered
///                given     --- hand_on_plan() ---> wanted
struct FanOut {
  /// What each rank has of the target behind the first pass: slices of what it lacks where that is
  /// handed on, else all; and what it has had before. Fragments lie where the target's do.
  ShardMap scattered;
  /// The part of it that is handed on, on the ranks that have lacked it. Who had it all before has
  /// sent its share, and is not asked again.
  ShardMap given;
  ShardMap wanted;  ///< of the target, what these ranks shall have of it
};

/// Among whom a box is cut into slices, which they give each other.
enum class SharedBy : std::uint8_t {
  kAll,   ///< all ranks that lack it: it goes out once, and is handed on between nodes, too
  kNode,  ///< those of each node apart: it goes out once a node, and is handed on within nodes
};

/// Whether, and how, a switch is handed on.
/// Returns  nothing where no box has at least twice as many ranks that lack it as copies, or all
///          such boxes are smaller than `least_slice_bytes` for each of these ranks. `kNode` counts
///          ranks and copies of each node alone.
/// Errors   LayoutError as check_same_tensors, or when the record does not reach a rank.
/// Cost     per distinct (shape, sharding pair): boxes of the target times those of the source.
///          Equal on all ranks.
/// Source   own; docs/design/plan.md, "Handing on".
[[nodiscard]] std::optional<FanOut> fan_out(const ShardMap& source,
                                            const ShardMap& target,
                                            const DecisionRecord& record,
                                            SharedBy shared_by,
                                            std::int64_t least_slice_bytes = 256LL << 10U);

/// The second pass of a rank: what it has got it sends, and receives the rest. Source and target
/// are both the target's memory, so all tensors are adoptable and nothing is local. Errors, cost
/// those of make_plan.
[[nodiscard]] Plan hand_on_plan(const FanOut& fan_out, int rank, const DecisionRecord& record);

/// Bytes that one rank's link between nodes carries in its busier direction: by way to make a
/// switch, by pass of it.
using LoadsOfWays = std::vector<std::vector<std::int64_t>>;

/// The way whose passes take the least time together, each as long as its busiest link. A second
/// pass is another wait for the slowest rank: the first way, which has one, is left only for one
/// that carries 1.25 times less.
/// Errors  LayoutError where ranks differ in their ways or passes, or there is none.
[[nodiscard]] std::size_t way_of_least_load(std::span<const LoadsOfWays> ranks);

}  // namespace dynatrain
