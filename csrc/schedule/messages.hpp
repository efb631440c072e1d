#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include "schedule/direct_runs.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// Messages begin at multiples of this within a slot, so that two of them share no cache line.
inline constexpr std::int64_t kMessageAlignment = 64;

enum class Direction : std::uint8_t { kSend, kReceive };

/// Builds the messages of one pair and stage, without their places in the slot: the packed one
/// first (left out when there is nothing in it), then the single ones. Equal on both ends but for
/// `peer` and `direct`.
[[nodiscard]] std::vector<StageMessage> make_messages(const Travel& travel,
                                                      const PairList& list,
                                                      const ShardMap& map,
                                                      Direction direction,
                                                      bool with_sums);

/// A part of the schedule, from a part of a list.
[[nodiscard]] Part to_part(const ListPart& part, const std::vector<Move>& moves);

/// Gives every message that is staged at this end its place in the slot, sends first. Returns the
/// slot's used bytes.
[[nodiscard]] std::int64_t place_messages(Stage& stage);

}  // namespace dynatrain
