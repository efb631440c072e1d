#pragma once

#include "dynatrain/base/strong_id.hpp"
#include "dynatrain/geometry/box.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// The few global choices of a switch. Computed once, published, compared by all (law 4). Who sends
/// a cell follows from it and the maps on each rank alone; see docs/design/plan.md, "Who sends".
struct DecisionRecord {
  /// Node of each rank; empty means that all share one node.
  std::vector<int> node_of_rank;

  [[nodiscard]] std::uint64_t hash() const;
  /// The node of a rank, 0 where all share one.
  /// Errors   LayoutError when the record does not reach `rank`.
  [[nodiscard]] int node_of(int rank) const;
};

/// A box of one tensor from one src rank to one dst rank; local when they are equal. It lies within
/// one fragment of the source map at src and within one fragment of the target map at dst.
struct Move {
  TensorId tensor;
  Box box;
  int src_rank = 0;
  int dst_rank = 0;

  friend bool operator==(const Move&, const Move&) = default;
};

/// The canonical list of one ordered pair of ranks, by tensor, then box; equal on both ends.
struct PairList {
  int peer = 0;
  std::vector<Move> moves;
  std::int64_t size_bytes = 0;
  std::uint64_t hash = 0;  ///< of moves in order; exchanged before any byte moves
};

/// Bytes that a plan moves for its rank, and the bounds they are held against.
struct Traffic {
  std::int64_t sent_bytes = 0;
  std::int64_t received_bytes = 0;
  std::int64_t kept_bytes = 0;         ///< needed and already held (adopted or copied locally)
  std::int64_t lower_bound_bytes = 0;  ///< |need \ own|, computed apart from the moves
  std::int64_t adoptable_bytes = 0;    ///< part of kept_bytes: the tensors in Plan::adoptable
};

/// All moves of one rank under a decision record.
struct Plan {
  int rank = 0;
  std::vector<PairList> sends;     ///< peers ascending, none empty
  std::vector<PairList> receives;  ///< peers ascending, none empty
  std::vector<Move> locals;
  /// Tensors whose fragments and views are equal in source and target on this rank: their buffer
  /// may be adopted instead of copied. Their moves are in `locals` all the same.
  std::vector<TensorId> adoptable;
  Traffic traffic;
  /// Cell tables that were computed; every other tensor was stamped from one of them.
  int num_cell_tables = 0;
};

/// Errors   LayoutError when the maps differ in names, shapes or dtypes: lists missing, extra and
///          differing tensors (at most 8 of each), and the nearest names.
void check_same_tensors(const ShardMap& source, const ShardMap& target);

/// Derives the moves of `rank` from both maps; no communication.
///
/// Errors   LayoutError as check_same_tensors; LayoutError naming tensor, box and rank when a cell
///          that `rank` needs has no owner (law 2; other ranks learn of it by the switch's vote);
///          LayoutError when the record's nodes do not cover the ranks.
/// Cost     cells that involve this rank, per distinct (shape, sharding pair); never all pairs of
///          shards. Tensors that share both are planned once and stamped.
/// Source   own; docs/design/plan.md, "Cells".
[[nodiscard]] Plan make_plan(const ShardMap& source,
                             const ShardMap& target,
                             int rank,
                             const DecisionRecord& record);

/// The moves of some tensors alone, as a plan of its own: what lies on a host and what lies on a
/// device takes different ways. `tensors` is equal on all ranks, ascending.
/// Returns  canonical lists with hashes; of the traffic, what is sent, received and kept. Adoptable
///          is what it is in the whole: the memory that a run is given holds all tensors.
/// Cost     O(moves log tensors).
[[nodiscard]] Plan part_of(const Plan& plan,
                           const ShardMap& map,
                           std::span<const TensorId> tensors);
/// The moves that `is_wanted` says alone; both ends of a pair must say the same of each.
[[nodiscard]] Plan part_of(const Plan& plan,
                           const ShardMap& map,
                           const std::function<bool(const Move&)>& is_wanted);

/// Checks the plans of all ranks together, by other arithmetic than the planner's: every target
/// element arrives exactly once, every src holds what it sends, both ends of a pair list the same
/// moves, nobody receives what it holds or does not need (laws 2 and 3).
/// Returns  one line per violation; empty when the plans are complete.
[[nodiscard]] std::vector<std::string> check_plans(const ShardMap& source,
                                                   const ShardMap& target,
                                                   std::span<const Plan> plans);

/// Bytes of a plan by the links that they take; without nodes in the record all are near.
struct LinkTraffic {
  std::int64_t near_sent_bytes = 0;  ///< to ranks of the same node
  std::int64_t near_received_bytes = 0;
  std::int64_t far_sent_bytes = 0;  ///< to ranks of other nodes
  std::int64_t far_received_bytes = 0;

  friend bool operator==(const LinkTraffic&, const LinkTraffic&) = default;
};

/// What of a plan stays within a node.
/// Errors   LayoutError when the record does not reach a rank of the plan.
/// Cost     O(peers).
[[nodiscard]] LinkTraffic link_traffic(const Plan& plan, const DecisionRecord& record);

/// Link speeds, of one rank, each direction.
struct Topology {
  double link_bytes_per_second = 25e9;       ///< between nodes
  double node_link_bytes_per_second = 25e9;  ///< within a node
  double stage_latency_seconds = 20e-6;
  double memory_bytes_per_second = 1e12;  ///< of a copy on one rank
  /// Of the messages of all ranks of a node together, where its cores carry them, those from other
  /// nodes and to them, too; 0 where nothing but links bounds them. Not part of the time bound.
  double host_bytes_per_second = 0;
  /// Of the copies of all ranks of a node together, by the same cores; 0 where they share nothing.
  double host_memory_bytes_per_second = 0;
  /// Plain copies that take as long as packing, or unpacking, as many bytes, their sums included.
  /// Not part of the time bound.
  double pack_cost = 1;
};

/// The least time a plan can take: its busiest link and one latency, or its local copies where they
/// take longer. Links within a node and between nodes, and copies, work at the same time.
[[nodiscard]] double time_bound_seconds(const Traffic& traffic,
                                        const LinkTraffic& links,
                                        const Topology& topology);

}  // namespace dynatrain
