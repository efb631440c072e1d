#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"

#include "schedule/list_cuts.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// Returns, per move, how many elements of its row-major order lie one after another in memory at
/// both ends, from every multiple of that number on; 0 where that is below `threshold_bytes`.
///
/// Both ends ask both maps and get the same answer. A move that lies in several fragments of one
/// end gets 0, too. Cost     O(1) for a small move, one look at the fragments of both ends for a
/// large one.
[[nodiscard]] std::vector<std::int64_t> direct_run_elems(const std::vector<Move>& moves,
                                                         const ShardMap& source,
                                                         const ShardMap& target,
                                                         std::int64_t threshold_bytes);

/// The parts of one pair and stage, as they travel.
struct Travel {
  std::vector<ListPart> packed;  ///< in list order
  std::vector<ListPart> direct;  ///< longest first; equals in list order
};

/// Splits the parts of one pair and stage into packed ones and at most `max_direct` direct ones.
/// Shapes   `run_elems` as from direct_run_elems(), `moves` the pair's list.
[[nodiscard]] Travel choose_direct(const std::vector<ListPart>& parts,
                                   const std::vector<Move>& moves,
                                   const std::vector<std::int64_t>& run_elems,
                                   const ShardMap& map,
                                   const ScheduleOptions& options);

}  // namespace dynatrain
