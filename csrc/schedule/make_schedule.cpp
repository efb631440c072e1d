#include "dynatrain/base/error.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include "schedule/direct_runs.hpp"
#include "schedule/list_cuts.hpp"
#include "schedule/messages.hpp"
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// Both maps and the options, which every step asks.
struct Context {
  const ShardMap& source;
  const ShardMap& target;
  const ScheduleOptions& options;
};

/// The lists in circle order: the peer one place on (for sends) or back (for receives) comes first.
std::vector<const PairList*> in_circle_order(const std::vector<PairList>& lists,
                                             Direction direction,
                                             int rank,
                                             int num_ranks) {
  const auto distance = [=](const PairList* list) {
    const int steps = direction == Direction::kSend ? list->peer - rank : rank - list->peer;
    return (steps + num_ranks) % num_ranks;
  };
  std::vector<const PairList*> ordered;
  ordered.reserve(lists.size());
  for (const PairList& list : lists) {
    ordered.push_back(&list);
  }
  std::ranges::sort(ordered, {}, distance);
  return ordered;
}

/// Adds the messages of one pair to every stage.
void add_list(std::vector<Stage>& stages,
              const PairList& list,
              Direction direction,
              const Context& context) {
  const auto cuts = cut_list(list.moves, context.source, static_cast<int>(stages.size()));
  const auto runs = dense_runs(
      list.moves, context.source, context.target, context.options.direct_threshold_bytes);
  for (std::size_t k = 0; k < stages.size(); ++k) {
    const Travel travel = choose_direct(cuts[k], list.moves, runs, context.source, context.options);
    auto& messages = direction == Direction::kSend ? stages[k].sends : stages[k].receives;
    for (StageMessage& message :
         make_messages(travel, list, context.source, direction, context.options.with_sums)) {
      messages.push_back(std::move(message));
    }
  }
}

void add_locals(std::vector<Stage>& stages, const std::vector<Move>& locals, const ShardMap& map) {
  const auto cuts = cut_list(locals, map, static_cast<int>(stages.size()));
  for (std::size_t k = 0; k < stages.size(); ++k) {
    for (const ListPart& part : cuts[k]) {
      stages[k].locals.push_back(to_part(part, locals));
    }
  }
}

void check_budget(const Schedule& schedule, std::int64_t budget_bytes) {
  if (schedule.staging_peak_bytes <= budget_bytes) {
    return;
  }
  throw BudgetError(
      "schedule: rank " + std::to_string(schedule.rank) + " would stage " +
          std::to_string(schedule.staging_peak_bytes) + " bytes, over its budget of " +
          std::to_string(budget_bytes) + " bytes\n  " + std::to_string(schedule.stages.size()) +
          " stages, the largest of " + std::to_string(schedule.slot_bytes) +
          " bytes, two at a time\n" + "  nothing was moved; the source state is intact\n" +
          "  use at least the largest num_stages_wanted() of all ranks, and the same "
          "options everywhere, or raise the staging budget",
      schedule.staging_peak_bytes,
      budget_bytes);
}

}  // namespace

Schedule make_schedule(const Plan& plan,
                       const ShardMap& source,
                       const ShardMap& target,
                       int num_stages,
                       const ScheduleOptions& options) {
  DYNATRAIN_CHECK(num_stages >= 1, "a schedule has at least one stage");
  const Context context{.source = source, .target = target, .options = options};
  const int num_ranks = std::max(source.num_ranks(), target.num_ranks());
  Schedule schedule;
  schedule.rank = plan.rank;
  schedule.stages.resize(static_cast<std::size_t>(num_stages));
  for (const PairList* list : in_circle_order(plan.sends, Direction::kSend, plan.rank, num_ranks)) {
    add_list(schedule.stages, *list, Direction::kSend, context);
  }
  for (const PairList* list :
       in_circle_order(plan.receives, Direction::kReceive, plan.rank, num_ranks)) {
    add_list(schedule.stages, *list, Direction::kReceive, context);
  }
  add_locals(schedule.stages, plan.locals, source);
  for (Stage& stage : schedule.stages) {
    stage.staging_bytes = place_messages(stage);
    schedule.slot_bytes = std::max(schedule.slot_bytes, stage.staging_bytes);
  }
  schedule.staging_peak_bytes = std::min(num_stages, kNumSlots) * schedule.slot_bytes;
  check_budget(schedule, options.staging_budget_bytes);
  return schedule;
}

}  // namespace dynatrain
