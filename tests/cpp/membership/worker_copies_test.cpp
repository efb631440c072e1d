#include <gtest/gtest.h>

#include "membership/worker_desk.hpp"
#include <variant>

/// What becomes of a member's copies when its world ends.
namespace dynatrain::membership {
namespace {

using testing::found;
using testing::told;
using testing::WorkerDesk;

/// In epoch 1, of which a snapshot is whole.
WorkerDesk copied() {
  WorkerDesk desk;
  desk.begin_world();
  (void)desk.give(Copied{1});
  return desk;
}

/// Switches at step 1 to a world in which the member has `rank`, or no place.
std::vector<WorkerAction> change(WorkerDesk& desk, int rank) {
  (void)desk.hear(Prepare{2, ChangeKind::kPlanned, 1, true, 2, rank});
  (void)desk.give(PrepareDone{2});
  (void)desk.hear(Propose{2, 1, 1});
  (void)desk.hear(Go{2, 1, 1});
  (void)desk.give(AtBoundary{1});
  (void)desk.give(SwitchMoved{2});
  return desk.hear(Decision{2, true, {}});
}

WorkerDesk left_with_copies() {
  WorkerDesk desk = copied();
  (void)change(desk, -1);
  return desk;
}

Heartbeat next_beat(WorkerDesk& desk) {
  return told<Heartbeat>(desk.wait(desk.deadlines().heartbeat_ms)).at(0);
}

/// Takes part in a recovery of the world with this epoch, which was halted.
std::vector<WorkerAction> recover(WorkerDesk& desk, std::int64_t epoch) {
  std::vector<WorkerAction> actions =
      desk.hear(Prepare{7, ChangeKind::kRecovery, epoch, false, epoch + 1, -1});
  (void)desk.give(PrepareDone{7});
  (void)desk.hear(Go{7, 0, 1});
  (void)desk.give(SwitchMoved{7});
  const auto more = desk.hear(Decision{7, true, {}});
  actions.insert(actions.end(), more.begin(), more.end());
  return actions;
}

TEST(WorkerCopies, AreOfTheWorldInWhichTheyWereMade) {
  WorkerDesk desk = copied();

  EXPECT_EQ(next_beat(desk).copies, 1);
  EXPECT_TRUE(next_beat(desk).is_copied);
}

TEST(WorkerCopies, OfAWorldThatHasEndedAreNotThoseOfTheNext) {
  WorkerDesk desk = copied();
  (void)change(desk, 0);
  (void)desk.give(Copied{1});  // a round that ended late

  EXPECT_EQ(next_beat(desk).copies, 2);
  EXPECT_FALSE(next_beat(desk).is_copied);
}

TEST(WorkerCopies, StayWithWhoHasNoPlaceAnyMore) {
  WorkerDesk desk = copied();

  EXPECT_TRUE(found<ForgetCopies>(change(desk, -1)).empty());
  EXPECT_EQ(next_beat(desk).copies, 2);
}

// Members of a job that makes checkpoints alone need not stay for anything.
TEST(WorkerCopies, OnDiskAreNoneOfTheMembers) {
  WorkerDesk desk;
  desk.begin_world();
  (void)desk.give(Copied{1, true});

  EXPECT_EQ(next_beat(desk).copies, 0);
  EXPECT_TRUE(next_beat(desk).is_copied);
}

// One that was never whole would be a version that no other member knows.
TEST(WorkerCopies, ThatAreNotWholeAreForgotten) {
  WorkerDesk desk;
  desk.begin_world();

  EXPECT_EQ(found<ForgetCopies>(change(desk, -1)).size(), 1U);
  EXPECT_EQ(next_beat(desk).copies, 0);
}

TEST(WorkerCopies, AreReportedWhenTheNewWorldIsHalted) {
  WorkerDesk desk = left_with_copies();
  EXPECT_EQ(found<StopStep>(desk.hear(Halt{2, "member 3 was lost"})).size(), 1U);

  const auto reports = told<Report>(desk.give(Stopped{1, true, {1}}));

  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].epoch, 2);
  EXPECT_FALSE(reports[0].is_clean);  // it has no state
  EXPECT_EQ(reports[0].snapshot_versions, std::vector<std::int64_t>{1});
  EXPECT_EQ(told<Report>(desk.hear(Halt{2, "member 3 was lost"})).size(), 1U);
}

TEST(WorkerCopies, GoWithTheRecoveryThatTheyWereReportedFor) {
  WorkerDesk desk = left_with_copies();
  (void)desk.hear(Halt{2, "member 3 was lost"});
  (void)desk.give(Stopped{1, true, {1}});

  EXPECT_TRUE(found<ForgetCopies>(recover(desk, 2)).empty());
  EXPECT_EQ(next_beat(desk).copies, 3);
}

// They may be of steps that were undone since.
TEST(WorkerCopies, ThatNobodyHasAskedForAreForgottenBeforeARecovery) {
  WorkerDesk desk = left_with_copies();

  EXPECT_EQ(found<ForgetCopies>(recover(desk, 4)).size(), 1U);
}

TEST(WorkerCopies, AreForgottenWhenAskedTo) {
  WorkerDesk desk = left_with_copies();
  EXPECT_TRUE(found<ForgetCopies>(desk.hear(Forget{2})).empty());  // they lead to this one

  EXPECT_EQ(found<ForgetCopies>(desk.hear(Forget{3})).size(), 1U);
  EXPECT_EQ(next_beat(desk).copies, 0);
  EXPECT_TRUE(desk.hear(Halt{2, "member 3 was lost"}).empty());
}

// Neither a loss nor an end in the middle of something.
TEST(WorkerCopies, WhoStaysForThemEndsReleasedWhenItsGraceIsOver) {
  WorkerDesk desk = copied();
  (void)desk.give(LeaveWanted{2000});
  (void)change(desk, -1);

  const auto ends = found<End>(desk.wait(2000));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kReleased);
}

TEST(WorkerCopies, AreReportedWithWhatIsOnDiskWhereNobodyElseIsLeft) {
  WorkerDesk desk = left_with_copies();

  EXPECT_TRUE(found<ForgetCopies>(desk.hear(Search{2, 2})).empty());
  (void)desk.give(Found{{9, 1}});

  EXPECT_TRUE(found<ForgetCopies>(recover(desk, 2)).empty());
}

TEST(WorkerCopies, ThatDoNotCountAreForgottenWhereDisksAreSearched) {
  WorkerDesk desk = left_with_copies();

  EXPECT_EQ(found<ForgetCopies>(desk.hear(Search{4, 3})).size(), 1U);
}

// An attempt may come to nothing; who has left by another change before is not needed less for it.
TEST(WorkerCopies, OfAWorldBeforeTheLastAreForgottenWhenTheMemberComesBack) {
  WorkerDesk desk = left_with_copies();
  EXPECT_TRUE(
      found<ForgetCopies>(desk.hear(Prepare{7, ChangeKind::kPlanned, 5, false, 6, 0})).empty());
  (void)desk.give(PrepareDone{7});
  (void)desk.hear(Go{7, 1, 9});
  (void)desk.give(SwitchMoved{7});

  const auto actions = desk.hear(Decision{7, true, {}});

  ASSERT_EQ(found<ForgetCopies>(actions).size(), 1U);
  EXPECT_TRUE(std::holds_alternative<ForgetCopies>(actions.front()));  // before its own are made
}

TEST(WorkerCopies, WhoWaitsWithThemToLeaveEndsReleasedWhenTheyDoNotDo) {
  WorkerDesk desk = copied();
  (void)desk.give(LeaveWanted{600'000});
  (void)change(desk, -1);

  const auto ends = found<End>(desk.hear(Holds{"no version can be put together", true}));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kReleased);
}

}  // namespace
}  // namespace dynatrain::membership
