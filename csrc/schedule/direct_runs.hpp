#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"

#include "schedule/list_cuts.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// How many elements of a move's row-major order lie one after another in memory, from every
/// multiple of that number on; 0 where that is below the threshold.
struct DenseRuns {
  std::int64_t at_both = 0;
  std::int64_t at_src = 0;
  std::int64_t at_dst = 0;
};

/// Returns the runs of each move.
///
/// Both ends ask both maps and get the same answer. A move that lies in several fragments of one
/// end has no runs there. Cost     O(1) for a small move, one look at the fragments of both ends
/// for a large one.
[[nodiscard]] std::vector<DenseRuns> dense_runs(const std::vector<Move>& moves,
                                                const ShardMap& source,
                                                const ShardMap& target,
                                                std::int64_t threshold_bytes);

/// A part that travels as a message of its own, and the ends at which it lies in its tensor.
struct SinglePart {
  ListPart part;
  bool is_direct_at_src = false;
  bool is_direct_at_dst = false;
};

/// The parts of one pair and stage, as they travel.
struct Travel {
  std::vector<ListPart> packed;  ///< in list order
  std::vector<SinglePart>
      singles;  ///< those first that save the most staging; equals in list order
};

/// Splits the parts of one pair and stage into packed ones and at most `max_direct_per_pair` single
/// ones. What is direct at one end alone is a whole part: a part that is cut takes more staging at
/// the other end.
/// Shapes   `runs` as from dense_runs(), `moves` the pair's list.
[[nodiscard]] Travel choose_direct(const std::vector<ListPart>& parts,
                                   const std::vector<Move>& moves,
                                   const std::vector<DenseRuns>& runs,
                                   const ShardMap& map,
                                   const ScheduleOptions& options);

}  // namespace dynatrain
