#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include "schedule/random_schedules.hpp"
#include <algorithm>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

namespace dynatrain {
namespace {

using testing::cut_columns;
using testing::cut_rows;
using testing::equal_tensors;
using testing::numbered_names;
using testing::Scheduled;

std::int64_t bytes_to(const Stage& stage, int peer) {
  std::int64_t bytes = 0;
  for (const StageMessage& message : testing::between(stage.sends, peer)) {
    bytes += message.size_bytes;
  }
  return bytes;
}

// Every port must work in every stage: if some pairs finished early, the others would run alone.
TEST(ScheduleStages, EveryPairIsBusyAlikeInEveryStage) {
  const ShardMap source = equal_tensors({"w"}, {512, 512}, cut_rows(4));
  const ShardMap target = equal_tensors({"w"}, {512, 512}, cut_columns(4));
  const Plan plan = make_plan(source, target, 0, {});

  const Schedule schedule = make_schedule(plan, source, target, 7, {});

  for (const PairList& list : plan.sends) {
    for (const Stage& stage : schedule.stages) {
      EXPECT_LE(std::abs(bytes_to(stage, list.peer) - list.size_bytes / 7), 256)
          << "peer " << list.peer;
    }
  }
}

// Scalars (an optimizer's `step` per parameter) take six times their bytes in alignment and sums.
// Ranges of equal raw bytes would put them all into one stage, over its slot.
TEST(ScheduleStages, ManyScalarsDoNotOverfillAStage) {
  std::vector<ShardMap::Entry> held;
  std::vector<ShardMap::Entry> needed;
  for (int i = 0; i < 2000; ++i) {
    const Shape shape = i < 4 ? Shape{4096} : Shape{};
    const LogicalTensor tensor{"t" + std::to_string(10000 + i), shape, {"float32", 4}};
    held.push_back({tensor, make_replicated_sharding({0})});
    needed.push_back({tensor, make_replicated_sharding({1})});
  }
  const ShardMap source(held);
  const ShardMap target(needed);
  const ScheduleOptions options{.staging_budget_bytes = 16 << 10};
  const Plan plan = make_plan(source, target, 1, {});

  const Schedule schedule =
      make_schedule(plan, source, target, num_stages_wanted(plan, options), options);

  EXPECT_LE(schedule.slot_bytes, options.staging_budget_bytes / 2);
}

// Odd places would make every copy of the rest of a move an unaligned one.
TEST(ScheduleStages, LargeTensorsAreCutAtMultiplesOf64Bytes) {
  const ShardMap source = equal_tensors({"w"}, {100003}, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, {100003}, make_replicated_sharding({1}));
  const Plan plan = make_plan(source, target, 0, {});

  const Schedule schedule = make_schedule(plan, source, target, 9, {});

  for (const Stage& stage : schedule.stages) {
    ASSERT_EQ(stage.sends.size(), 1U);
    ASSERT_EQ(stage.sends[0].parts.size(), 1U);
    EXPECT_EQ(stage.sends[0].parts[0].begin_elem * 4 % 64, 0);
  }
}

// If all ranks began with rank 0, rank 0 would be a queue and the others idle.
TEST(ScheduleOrder, PeersAreInCircleOrder) {
  const ShardMap source = equal_tensors({"w"}, {64, 64}, cut_rows(5));
  const ShardMap target = equal_tensors({"w"}, {64, 64}, cut_columns(5));

  const Schedule schedule = make_schedule(make_plan(source, target, 3, {}), source, target, 1, {});

  std::vector<int> send_peers;
  std::vector<int> receive_peers;
  for (const StageMessage& message : schedule.stages[0].sends) {
    send_peers.push_back(message.peer);
  }
  for (const StageMessage& message : schedule.stages[0].receives) {
    receive_peers.push_back(message.peer);
  }
  EXPECT_EQ(send_peers, (std::vector<int>{4, 0, 1, 2}));
  EXPECT_EQ(receive_peers, (std::vector<int>{2, 1, 0, 4}));
}

// A stage without traffic for a rank still exists: all ranks run the same stages.
TEST(ScheduleOrder, AnIdleRankHasTheSameNumberOfStages) {
  const ShardMap map = equal_tensors({"w"}, {64}, cut_rows(2));

  const Schedule schedule = make_schedule(make_plan(map, map, 7, {}), map, map, 6, {});

  EXPECT_EQ(schedule.stages.size(), 6U);
  EXPECT_EQ(schedule.staging_peak_bytes, 0);
}

// With a cap on direct messages the longest runs must win: they save the most packing.
TEST(DirectMessages, TheLongestRunsGoFirst) {
  std::vector<ShardMap::Entry> held;
  std::vector<ShardMap::Entry> needed;
  for (int i = 0; i < 6; ++i) {
    const LogicalTensor tensor{"t" + std::to_string(i), Shape{100 * (1 + i * 5 % 6)}, {"f", 4}};
    held.push_back({tensor, make_replicated_sharding({0})});
    needed.push_back({tensor, make_replicated_sharding({1})});
  }
  const ShardMap source(held);
  const ShardMap target(needed);
  const ScheduleOptions options{.direct_threshold_bytes = 800, .max_direct_per_pair = 3};

  const Schedule schedule =
      make_schedule(make_plan(source, target, 0, {}), source, target, 1, options);

  std::vector<std::int64_t> direct_bytes;
  for (const StageMessage& message : schedule.stages[0].sends) {
    if (message.direct) {
      direct_bytes.push_back(message.size_bytes);
    }
  }
  EXPECT_EQ(direct_bytes, (std::vector<std::int64_t>{2400, 2000, 1600}));
}

// A row of a wide matrix can be a long run although the shard as a whole is strided.
TEST(DirectMessages, LongRowsOfAStridedShardGoAlone) {
  const ShardMap source = equal_tensors({"w"}, {2, 4096}, make_replicated_sharding({0}));
  const auto right_half =
      make_table_sharding({{1, {{Box{{0, 2048}, {2, 4096}}, View{0, {4096, 1}}}}},
                           {0, {{Box{{0, 0}, {2, 2048}}, View{0, {2048, 1}}}}}});
  const ShardMap target = equal_tensors({"w"}, {2, 4096}, right_half);
  const ScheduleOptions options{.direct_threshold_bytes = 8192, .with_sums = false};

  const Schedule schedule =
      make_schedule(make_plan(source, target, 0, {}), source, target, 1, options);

  ASSERT_EQ(schedule.stages[0].sends.size(), 2U);
  EXPECT_TRUE(schedule.stages[0].sends[0].direct);
  EXPECT_EQ(schedule.stages[0].sends[0].size_bytes, 8192);
  EXPECT_EQ(schedule.staging_peak_bytes, 0);
}

// What is contiguous at one end alone takes no staging there: a copy of the state less.
TEST(DirectMessages, AColumnShardIsPackedWhereItIsCutAndLiesWhereItGoes) {
  const ShardMap source = equal_tensors({"w"}, {64, 128}, make_replicated_sharding({0}));
  const auto halves = make_table_sharding({{1, {{Box{{0, 64}, {64, 128}}, View{0, {64, 1}}}}},
                                           {0, {{Box{{0, 0}, {64, 64}}, View{0, {64, 1}}}}}});
  const ShardMap target = equal_tensors({"w"}, {64, 128}, halves);
  const ScheduleOptions options{.direct_threshold_bytes = 4096, .with_sums = false};

  const Schedule sender =
      make_schedule(make_plan(source, target, 0, {}), source, target, 1, options);
  const Schedule receiver =
      make_schedule(make_plan(source, target, 1, {}), source, target, 1, options);

  ASSERT_EQ(sender.stages[0].sends.size(), 1U);
  EXPECT_FALSE(sender.stages[0].sends[0].direct);
  EXPECT_EQ(sender.staging_peak_bytes, 64 * 64 * 4);
  ASSERT_EQ(receiver.stages[0].receives.size(), 1U);
  EXPECT_TRUE(receiver.stages[0].receives[0].direct);
  EXPECT_EQ(receiver.staging_peak_bytes, 0);
}

// Their sums need a carrier: without one the receiver could not check a direct message.
TEST(DirectMessages, SumsTravelInAPackedMessageEvenWhenNothingElseDoes) {
  const ShardMap source = equal_tensors({"w"}, {4096}, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, {4096}, make_replicated_sharding({1}));
  const ScheduleOptions options{.direct_threshold_bytes = 4096};

  const Schedule schedule =
      make_schedule(make_plan(source, target, 0, {}), source, target, 1, options);

  ASSERT_EQ(schedule.stages[0].sends.size(), 2U);
  EXPECT_EQ(schedule.stages[0].sends[0].ordinal, 0);
  EXPECT_TRUE(schedule.stages[0].sends[0].parts.empty());
  EXPECT_EQ(schedule.stages[0].sends[0].sums_offset_bytes, 0);
  EXPECT_EQ(schedule.stages[0].sends[0].size_bytes, 8);
}

// Overlap wants several stages, but not at the price of messages that are all latency.
TEST(ScheduleStageCount, SmallTrafficIsNotCutForOverlap) {
  const ShardMap source = equal_tensors({"w"}, {1000}, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, {1000}, make_replicated_sharding({1}));
  const Plan plan = make_plan(source, target, 0, {});

  EXPECT_EQ(num_stages_wanted(plan, {.min_message_bytes = 64 << 10}), 1);
  EXPECT_EQ(num_stages_wanted(plan, {.min_message_bytes = 1 << 10}), 3);
}

// A message has threads woken for it on both ends: in quarters, such messages took four ranks on
// two cores 1.4 times as long.
TEST(ScheduleStageCount, MessagesOfLessThanAMebibyteAreNotMadeForOverlap) {
  const ShardMap source = equal_tensors({"w"}, {500'000}, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, {500'000}, make_replicated_sharding({1}));

  EXPECT_EQ(num_stages_wanted(make_plan(source, target, 0, {}), {}), 1);
}

// A copy names the place of its sum in a slot by 31 bits: beyond 16 GiB it would name another one.
TEST(ScheduleStageCount, NoSlotIsLargerThanItsSumsCanBeNamedIn) {
  Plan plan;
  plan.sends.push_back({.peer = 1, .moves = {}, .size_bytes = 100LL << 30U});

  EXPECT_EQ(num_stages_wanted(plan, {.staging_budget_bytes = 1LL << 40U}), 7);
}

// The budget is a promise; half of it must hold a stage, because two are in flight.
TEST(ScheduleStageCount, AHalfOfTheBudgetHoldsAStage) {
  const ShardMap source = equal_tensors({"w"}, {1 << 20}, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, {1 << 20}, make_replicated_sharding({1}));
  const Plan plan = make_plan(source, target, 0, {});

  EXPECT_EQ(num_stages_wanted(plan, {.staging_budget_bytes = 1 << 20}), 9);
}

// Refusing early, with the number that would do, beats an out-of-memory error later.
TEST(ScheduleStageCount, ABudgetThatCannotHoldOneMessagePerPeerIsRefused) {
  const ShardMap source = equal_tensors({"w"}, {64, 64}, cut_rows(4));
  const ShardMap target = equal_tensors({"w"}, {64, 64}, cut_columns(4));
  const Plan plan = make_plan(source, target, 0, {});

  try {
    std::ignore = num_stages_wanted(plan, {.staging_budget_bytes = 100});
    FAIL() << "accepted";
  } catch (const BudgetError& error) {
    EXPECT_EQ(error.budget_bytes, 100);
    EXPECT_EQ(num_stages_wanted(plan, {.staging_budget_bytes = error.required_bytes}) > 0, true);
  }
}

// A budget that holds the messages of a stage, and takes more stages than there are numbers.
TEST(ScheduleStageCount, MoreStagesThanCanBeCountedAreRefusedAsThat) {
  const Shape huge{std::int64_t{1} << 44};
  const ShardMap source = equal_tensors({"w"}, huge, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, huge, make_replicated_sharding({1}));
  const Plan plan = make_plan(source, target, 0, {});

  try {
    std::ignore = num_stages_wanted(plan, {.staging_budget_bytes = 2048});
    FAIL() << "accepted";
  } catch (const BudgetError& error) {
    EXPECT_NE(std::string(error.what()).find("stages on rank 0"), std::string::npos)
        << error.what();
    EXPECT_GT(error.required_bytes, 2048);
    EXPECT_GT(num_stages_wanted(plan, {.staging_budget_bytes = error.required_bytes}), 0);
  }
}

// Law 5 again: too few stages must be refused before a byte moves, not discovered while it does.
TEST(Law5Memory, TooFewStagesAreRefused) {
  const ShardMap source = equal_tensors({"w"}, {1 << 20}, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors({"w"}, {1 << 20}, make_replicated_sharding({1}));
  const Plan plan = make_plan(source, target, 0, {});
  const ScheduleOptions options{.staging_budget_bytes = 1 << 20,
                                .direct_threshold_bytes = 1LL << 40};

  EXPECT_THROW(std::ignore = make_schedule(plan, source, target, 3, options), BudgetError);
}

}  // namespace
}  // namespace dynatrain
