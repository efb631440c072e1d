#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include "schedule/list_cuts.hpp"
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

/// What a pair's message in a stage may take beyond its equal share of the list's weight: rounding
/// (1), a cut moved by up to two alignments or past a part's overhead, one more part, the message's
/// own alignment. docs/design/schedule.md, "How many stages", adds it up.
constexpr std::int64_t kMessageSlack = 256;

/// Copies name sums by their place in the slot, in 31 bits: more of a budget than this is of no
/// use.
constexpr std::int64_t kMaxBudgetBytes = kNumSlots * (kSumBytes << 31U);

/// What one rank sends and receives, both directions together.
struct Load {
  std::int64_t weight = 0;
  std::int64_t num_lists = 0;
};

Load load_of(const Plan& plan) {
  Load load;
  for (const std::vector<PairList>* lists : {&plan.sends, &plan.receives}) {
    for (const PairList& list : *lists) {
      load.weight = checked_add(load.weight, list_weight(list.size_bytes, list.moves.size()));
      ++load.num_lists;
    }
  }
  return load;
}

constexpr std::int64_t kMostStages = std::numeric_limits<int>::max();

[[noreturn]] void throw_too_many(const Load& load,
                                 int rank,
                                 std::int64_t budget_bytes,
                                 std::int64_t stages) {
  const std::int64_t slack = load.num_lists * kMessageSlack;
  const std::int64_t least_budget = (ceil_div(load.weight, kMostStages) + slack) * kNumSlots;
  throw BudgetError("schedule: a staging budget of " + std::to_string(budget_bytes) +
                        " bytes would take " + std::to_string(stages) + " stages on rank " +
                        std::to_string(rank) + "\n  expected " + std::to_string(kMostStages) +
                        " at most, which takes " + std::to_string(least_budget) +
                        " bytes\n  nothing was moved; the source state is intact\n  raise the "
                        "staging budget",
                    least_budget,
                    budget_bytes);
}

/// The fewest stages whose slots stay within their shares of the budget.
std::int64_t stages_for_memory(const Load& load, int rank, std::int64_t budget_bytes) {
  const std::int64_t slack = load.num_lists * kMessageSlack;
  const std::int64_t least_budget = 2 * slack * kNumSlots;
  const std::int64_t stages =
      budget_bytes < least_budget ? 0 : ceil_div(load.weight, budget_bytes / kNumSlots - slack);
  if (stages > kMostStages) {
    throw_too_many(load, rank, budget_bytes, stages);
  }
  if (stages == 0) {
    throw BudgetError("schedule: a staging budget of " + std::to_string(budget_bytes) +
                          " bytes is too small for rank " + std::to_string(rank) + ", which has " +
                          std::to_string(load.num_lists) + " messages per stage\n  it needs " +
                          std::to_string(least_budget) +
                          " bytes at the very least\n  nothing was moved; the source state is "
                          "intact\n  raise the staging budget",
                      least_budget,
                      budget_bytes);
  }
  return stages;
}

/// The stages that let pack, wire and unpack overlap without messages getting too small.
std::int64_t stages_for_overlap(const Load& load, const ScheduleOptions& options) {
  const std::int64_t least_weight =
      checked_mul(load.num_lists, std::max<std::int64_t>(options.min_message_bytes, 1));
  return std::min<std::int64_t>(options.num_stages_to_overlap, load.weight / least_weight);
}

}  // namespace

int num_stages_wanted(const Plan& plan, const ScheduleOptions& options) {
  const Load load = load_of(plan);
  if (load.num_lists == 0) {
    return 1;
  }
  const std::int64_t budget_bytes = std::min(options.staging_budget_bytes, kMaxBudgetBytes);
  const std::int64_t for_memory = stages_for_memory(load, plan.rank, budget_bytes);
  const std::int64_t for_overlap = stages_for_overlap(load, options);
  return static_cast<int>(std::max({for_memory, for_overlap, std::int64_t{1}}));
}

}  // namespace dynatrain
