#pragma once

#include "dynatrain/plan/plan.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include "plan/element_oracle.hpp"
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// The schedules of all ranks between two random maps, under random options.
namespace dynatrain::testing {

struct Scheduled {
  explicit Scheduled(std::uint64_t seed) : Scheduled(Draw(seed)) {}

  [[nodiscard]] std::int64_t elem_bytes(TensorId id) const {
    return source.tensor(id).dtype.size_bytes;
  }
  [[nodiscard]] std::int64_t size_bytes(const Part& part) const {
    return (part.end_elem - part.begin_elem) * elem_bytes(part.tensor);
  }

  KnownPair pair;
  ShardMap source;
  ShardMap target;
  ScheduleOptions options;
  int num_stages = 1;  ///< at least the largest wish of all ranks
  std::vector<Plan> plans;
  std::vector<Schedule> schedules;

 private:
  /// Budgets start at the least that the contract allows; many are a few times that.
  explicit Scheduled(Draw draw)
      : pair(draw.pair(5, {1, 3, 4, 16, 48, 64})), source(pair.source), target(pair.target) {
    std::size_t most_lists = 1;
    for (int rank = 0; rank < pair.num_ranks; ++rank) {
      plans.push_back(make_plan(source, target, rank, {}));
      most_lists = std::max(most_lists, plans.back().sends.size() + plans.back().receives.size());
    }
    const auto least_bytes = static_cast<std::int64_t>(most_lists) * 1024;
    options.staging_budget_bytes = least_bytes * draw.number(4, 40) / 4;
    options.direct_threshold_bytes = std::int64_t{1} << draw.number(4, 12);
    options.max_direct_per_pair = static_cast<int>(draw.number(0, 3));
    options.min_message_bytes = std::int64_t{1} << draw.number(0, 16);
    options.with_sums = draw.one_in(2);
    for (const Plan& plan : plans) {
      num_stages = std::max(num_stages, num_stages_wanted(plan, options));
    }
    num_stages += draw.one_in(2) ? static_cast<int>(draw.number(0, 5)) : 0;
    for (const Plan& plan : plans) {
      schedules.push_back(make_schedule(plan, source, target, num_stages, options));
    }
  }
};

/// Calls `check` with `count` random cases; a failure names the seed that draws the case again.
template <class Check>
void for_random_schedules(std::uint64_t count, const Check& check) {
  for (std::uint64_t seed = 0; seed < count; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    check(Scheduled(seed));
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
}

/// The messages of one stage that go between two ranks, as the sender (or the receiver) lists them.
inline std::vector<StageMessage> between(const std::vector<StageMessage>& messages, int peer) {
  std::vector<StageMessage> found;
  std::ranges::copy_if(
      messages, std::back_inserter(found), [peer](const auto& m) { return m.peer == peer; });
  return found;
}

}  // namespace dynatrain::testing
