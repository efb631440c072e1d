#pragma once

#include "dynatrain/schedule/schedule.hpp"

#include "fuzz/target.hpp"
#include <vector>

/// What two ranks send and receive of each other, stage by stage.
namespace dynatrain::fuzz {

using Parts = std::vector<Part>;

[[nodiscard]] inline Parts parts_of(const std::vector<StageMessage>& messages, int peer) {
  Parts parts;
  for (const StageMessage& message : messages) {
    if (message.peer == peer) {
      parts.insert(parts.end(), message.parts.begin(), message.parts.end());
    }
  }
  return parts;
}

/// Of the plan of `src`.
inline void check_pair(const Schedule& src, const Schedule& dst, const Plan& plan) {
  std::int64_t elems = 0;
  for (std::size_t k = 0; k < src.stages.size(); ++k) {
    const Parts sent = parts_of(src.stages[k].sends, dst.rank);
    expect(sent == parts_of(dst.stages[k].receives, src.rank), "both ends cut alike");
    for (const Part& part : sent) {
      elems += part.end_elem - part.begin_elem;
    }
  }
  for (const PairList& list : plan.sends) {
    for (const Move& move : list.moves) {
      elems -= list.peer == dst.rank ? move.box.num_elements() : 0;
    }
  }
  expect(elems == 0, "stages carry a pair's list, all of it and once");
}

}  // namespace dynatrain::fuzz
