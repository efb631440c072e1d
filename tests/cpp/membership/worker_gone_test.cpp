#include <gtest/gtest.h>

#include "membership/worker_desk.hpp"

/// A member whose world is halted, and that hears why nothing goes on.
namespace dynatrain::membership {
namespace {

using testing::found;
using testing::told;
using testing::WorkerDesk;

/// In a world that is halted; what is left of it has been reported.
WorkerDesk halted(bool has_checkpoints) {
  WorkerDesk desk;
  desk.machine = Worker({{1}, "host", make_deadlines(), has_checkpoints}, 0);
  desk.begin_world();
  (void)desk.hear(Halt{1, "member 2 was lost"});
  (void)desk.give(Stopped{1, true, {}});
  return desk;
}

// It asked a coordinator that was not there, and SIGTERM waited for all of its grace.
TEST(WorkerGone, WhoIsToLeaveBeforeAnybodyHasAnsweredEndsAtOnce) {
  WorkerDesk desk;
  (void)desk.wait(desk.deadlines().heartbeat_ms);

  const auto ends = found<End>(desk.give(LeaveWanted{30'000}));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kReleased);
}

const Holds kGone{"no version can be put together", true};

// Nothing that could still come would bring the shard back.
TEST(WorkerGone, WithoutCheckpointsItEndsAtOnceAndSaysWhy) {
  WorkerDesk desk = halted(false);

  const auto actions = desk.hear(kGone);

  ASSERT_EQ(found<StandStill>(actions).size(), 1U);
  ASSERT_EQ(found<End>(actions).size(), 1U);
  EXPECT_EQ(found<End>(actions)[0].reason, EndReason::kStateGone);
  EXPECT_EQ(found<End>(actions)[0].why, kGone.why);
  EXPECT_EQ(told<Gone>(actions).size(), 1U);
}

// A folder may be mounted late.
TEST(WorkerGone, WithCheckpointsItWaitsForAWhile) {
  WorkerDesk desk = halted(true);
  EXPECT_TRUE(found<End>(desk.hear(kGone)).empty());
  (void)desk.wait(desk.deadlines().give_up_ms - 1);
  EXPECT_TRUE(found<End>(desk.hear(kGone)).empty());
  (void)desk.wait(1);

  const auto ends = found<End>(desk.hear(kGone));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kStateGone);
}

// It was stopped meanwhile; the others may have found a checkpoint, and train.
TEST(WorkerGone, WhatWasSaidLongAgoEndsNobody) {
  WorkerDesk desk = halted(true);
  (void)desk.hear(kGone);
  EXPECT_TRUE(found<End>(desk.wait(desk.deadlines().give_up_ms)).empty());

  const auto ends = found<End>(desk.hear(Lost{"no heartbeat"}));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kLost);
}

TEST(WorkerGone, WhatComesThatHelpsEndsTheWait) {
  WorkerDesk desk = halted(true);
  (void)desk.hear(kGone);
  (void)desk.hear(Prepare{2, ChangeKind::kRecovery, 1, true, 2, 0});
  (void)desk.give(PrepareDone{2});
  (void)desk.hear(Go{2, 0, 1});
  (void)desk.give(SwitchMoved{2});
  (void)desk.hear(Decision{2, true, {}});
  (void)desk.wait(desk.deadlines().give_up_ms);

  EXPECT_FALSE(desk.machine.has_ended());
}

// An attempt that is under way may be the one that helps.
TEST(WorkerGone, NobodyEndsInAnAttempt) {
  WorkerDesk desk = halted(true);
  (void)desk.hear(kGone);
  (void)desk.hear(Prepare{2, ChangeKind::kRecovery, 1, true, 2, 0});
  (void)desk.wait(desk.deadlines().give_up_ms);
  EXPECT_TRUE(found<End>(desk.hear(kGone)).empty());

  (void)desk.hear(Decision{2, false, "no owner"});

  EXPECT_EQ(found<End>(desk.hear(kGone)).size(), 1U);
}

// It waited for the whole grace, for others to take over what nobody can.
TEST(WorkerGone, WhoIsToLeaveEndsWhenItHearsThatNext) {
  WorkerDesk desk = halted(true);
  (void)desk.hear(kGone);
  (void)desk.give(LeaveWanted{30'000});

  const auto ends = found<End>(desk.hear(kGone));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kStateGone);
}

// The others may come yet: its state is what they need.
TEST(WorkerGone, WhoWaitsForMembersStays) {
  WorkerDesk desk = halted(false);

  const auto actions = desk.hear(Holds{"1 members are available", false});

  EXPECT_EQ(found<StandStill>(actions).size(), 1U);
  (void)desk.wait(desk.deadlines().give_up_ms);
  EXPECT_FALSE(desk.machine.has_ended());
}

TEST(WorkerGone, WhoTrainsTakesItForStale) {
  WorkerDesk desk;
  desk.begin_world();

  EXPECT_TRUE(desk.hear(kGone).empty());
}

TEST(WorkerGone, AStopNamesWhoIsLost) {
  WorkerDesk desk;
  desk.begin_world();

  const auto stops = found<StopStep>(desk.hear(Halt{1, "member 2 was lost"}));

  ASSERT_EQ(stops.size(), 1U);
  EXPECT_EQ(stops[0].why, "member 2 was lost");
}

// A launcher starts a process once more than there is something to do.
TEST(WorkerGone, WhoComesToAFinishedJobHasNothingToDoWhichIsNoError) {
  for (const bool is_over : {true, false}) {
    WorkerDesk desk;
    const auto ends = found<End>(desk.hear(Refused{"why", is_over}));
    ASSERT_EQ(ends.size(), 1U);
    EXPECT_EQ(ends[0].reason, is_over ? EndReason::kOver : EndReason::kRefused);
    EXPECT_EQ(ends[0].why, "why");
  }
}

}  // namespace
}  // namespace dynatrain::membership
