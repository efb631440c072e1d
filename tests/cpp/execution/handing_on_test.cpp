// Law 1 where receivers hand on what they have got: two passes over real executors, both into the
// target's memory.

#include "dynatrain/plan/fan_out.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

/// Plans and stages of all ranks in one pass.
struct Pass {
  const ShardMap& source;
  const ShardMap& target;
  std::vector<Plan> plans;
  std::vector<Schedule> schedules;

  void cut(const ScheduleOptions& options) {
    int num_stages = 1;
    for (const Plan& plan : plans) {
      num_stages = std::max(num_stages, num_stages_wanted(plan, options));
    }
    for (const Plan& plan : plans) {
      schedules.push_back(make_schedule(plan, source, target, num_stages, options));
    }
  }
};

/// False where nothing is handed on.
bool hand_on_and_expect(const ShardMap& source, const ShardMap& target) {
  const std::optional<FanOut> found = fan_out(source, target, {}, SharedBy::kAll, 0);
  if (!found.has_value()) {
    return false;
  }
  const int num_ranks = std::max(source.num_ranks(), target.num_ranks());
  Pass first{.source = source, .target = found->scattered, .plans = {}, .schedules = {}};
  Pass second{.source = found->given, .target = found->wanted, .plans = {}, .schedules = {}};
  for (int rank = 0; rank < num_ranks; ++rank) {
    first.plans.push_back(make_plan(source, found->scattered, rank, {}));
    second.plans.push_back(hand_on_plan(*found, rank, {}));
  }
  const ScheduleOptions options{.staging_budget_bytes = 32 << 10U,
                                .direct_threshold_bytes = 32,
                                .num_stages_to_overlap = 3,
                                .min_message_bytes = 1};
  first.cut(options);
  second.cut(options);
  LoopbackWorld world(num_ranks, {});
  std::vector<std::string> wrong(static_cast<std::size_t>(num_ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto index = static_cast<std::size_t>(rank);
      RankBuffers from = tagged_buffers(source, rank);
      const RankBuffers before = from;
      RankBuffers into = empty_buffers(target, rank);
      const auto transport = world.transport(rank);
      const auto copier = make_cpu_copier(1);
      Executor executor(*transport, *copier, 0);
      const ExecuteOptions late{.timeout = std::chrono::seconds(30)};
      try {
        const auto prepare = [&](const Pass& pass, RankBuffers& memory) {
          executor.agree(pass.plans[index], late);
          return executor.prepare({.plan = pass.plans[index],
                                   .schedule = pass.schedules[index],
                                   .source = pass.source,
                                   .target = pass.target,
                                   .source_memory = memory.memory(),
                                   .target_memory = into.memory()},
                                  late);
        };
        const auto one = prepare(first, from);
        const auto two = prepare(second, into);
        RunControl control;
        executor.run(*one, late, control);
        executor.run(*two, late, control);
        wrong[index] = first_wrong(target, rank, into);
        EXPECT_EQ(from, before);
      } catch (const std::exception& error) {
        wrong[index] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (int rank = 0; rank < num_ranks; ++rank) {
    EXPECT_EQ(wrong[static_cast<std::size_t>(rank)], "") << "rank " << rank;
  }
  return true;
}

TEST(HandingOn, BringsTheSameBitsToEveryRank) {
  EXPECT_TRUE(hand_on_and_expect(model_map(Layout::parse("dp=1")),
                                 model_map(Layout::parse("dp_replicate=8"))));
  std::vector<Layout> layouts;
  for (int world_size = 1; world_size <= 6; ++world_size) {
    std::ranges::copy(layouts_of(world_size, true), std::back_inserter(layouts));
  }
  std::mt19937_64 random(9);
  int num_handed_on = 0;
  for (int trial = 0; trial < 100; ++trial) {
    const Layout& from = layouts[random() % layouts.size()];
    const Layout& to = layouts[random() % layouts.size()];
    SCOPED_TRACE(from.to_string() + " -> " + to.to_string());
    num_handed_on += hand_on_and_expect(model_map(from), model_map(to)) ? 1 : 0;
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(num_handed_on, 20);
}

}  // namespace
}  // namespace dynatrain
