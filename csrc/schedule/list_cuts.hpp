#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstdint>
#include <vector>

namespace dynatrain {

/// Parts of a move begin at multiples of this many bytes from the move's first byte (or at the next
/// element, where 64 is no multiple of the element's size).
inline constexpr std::int64_t kCutAlignment = 64;

/// What a part may cost in a message beyond its bytes: up to 15 of alignment and 8 for its sum.
inline constexpr std::int64_t kPartOverhead = 24;

/// What a list weighs when it is cut: its bytes, plus the overhead of every move as a part. So
/// equal ranges need equal staging, however small the moves in them are.
[[nodiscard]] std::int64_t list_weight(std::int64_t size_bytes, std::size_t num_moves);

/// A part of a list, and the move it was cut from.
struct ListPart {
  std::size_t move = 0;  ///< index into the list
  std::int64_t begin_elem = 0;
  std::int64_t end_elem = 0;
};

/// Cuts one list into `num_stages` ranges of equal weight; a function of the list and the element
/// sizes alone, so both ends of a pair find the same cuts.
/// Shapes   one (possibly empty) run of parts per stage; together they are the list.
/// Cost     O(moves + stages).
[[nodiscard]] std::vector<std::vector<ListPart>> cut_list(const std::vector<Move>& moves,
                                                          const ShardMap& map,
                                                          int num_stages);

}  // namespace dynatrain
