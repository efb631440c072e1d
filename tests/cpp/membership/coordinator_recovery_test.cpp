#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"

namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::is_persisted_before_told;
using testing::persisted;
using testing::sent;
using testing::two_or_one;
using testing::up_to_three;

Report clean(std::uint64_t member, std::int64_t version) {
  return Report{{member}, 1, version, true, {}};
}

/// Member 3 of three was lost, and 1 and 2 were told to stop.
CoordinatorDesk halted() {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});
  (void)desk.give(ConnectionClosed{{3}});
  return desk;
}

Heartbeat halted_beat(std::uint64_t member) {
  Heartbeat beat;
  beat.id = {member};
  beat.epoch = 1;
  beat.activity = Activity::kHalted;
  return beat;
}

/// Two members, of which one has failed in a step.
CoordinatorDesk broken() {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(StepFailed{{1}, 1, {{2}}});
  return desk;
}

// Without the lost one no collective ends: whoever waits in one waits for its time limit.
TEST(CoordinatorRecovery, ALostMemberStopsTheOthers) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});

  const auto halts = sent<Halt>(desk.give(ConnectionClosed{{3}}));

  ASSERT_EQ(halts.size(), 2U);
  EXPECT_EQ(halts[0].first, MemberId{1});
  EXPECT_EQ(halts[1].first, MemberId{2});
}

TEST(CoordinatorRecovery, AHaltIsOnDiskBeforeItIsTold) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});

  EXPECT_TRUE((is_persisted_before_told<WorldHalted, Halt>(desk.give(StepFailed{{1}, 1, {}}))));
}

TEST(CoordinatorRecovery, ALossIsOnDiskBeforeItIsTold) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});

  EXPECT_TRUE((is_persisted_before_told<MemberLost, Lost>(desk.give(ConnectionClosed{{1}}))));
}

// The report of a step of the world before comes late, and says nothing of this one.
TEST(CoordinatorRecovery, AStepThatFailedInAnotherEpochIsStale) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  const std::int64_t num_before = desk.status().num_stale;

  EXPECT_TRUE(desk.give(StepFailed{{1}, 0, {}}).empty());
  EXPECT_EQ(desk.status().num_stale, num_before + 1);
}

// The version to go on from is among the reports: to begin before all are there would lose steps.
TEST(CoordinatorRecovery, WaitsForAllReports) {
  CoordinatorDesk desk = halted();

  EXPECT_TRUE(sent<Prepare>(desk.give(clean(1, 5))).empty());
  EXPECT_EQ(sent<Prepare>(desk.give(clean(2, 5))).size(), 2U);
}

TEST(CoordinatorRecovery, AReportThatIsToldTwiceIsCountedOnce) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));

  EXPECT_TRUE(sent<Prepare>(desk.give(clean(1, 5))).empty());
}

TEST(CoordinatorRecovery, OneThatDoesNotReportInTimeIsLost) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));

  (void)desk.wait_with({1, 2}, desk.deadlines().lost_after_ms - 1);
  (void)desk.wait_with({1, 2}, desk.deadlines().lost_after_ms - 1);
  const auto actions = desk.wait_with({1, 2}, desk.deadlines().lost_after_ms - 1);

  ASSERT_EQ(persisted<MemberLost>(actions).size(), 1U);
  EXPECT_EQ(persisted<MemberLost>(actions)[0].id, MemberId{2});
}

// A coordinator that is cut off hears no reports; those who halt would learn that they are lost.
TEST(CoordinatorRecovery, WhoHearsNobodyLosesNobodyForALateReport) {
  CoordinatorDesk desk = halted();

  EXPECT_TRUE(persisted<MemberLost>(desk.wait(3 * desk.deadlines().report_ms)).empty());
  EXPECT_TRUE(persisted<MemberLost>(desk.give(clean(1, 5))).empty());
  EXPECT_EQ(sent<Prepare>(desk.give(clean(2, 5))).size(), 2U);
}

TEST(CoordinatorRecovery, GoesOnFromTheNewestWholeVersion) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 6));

  EXPECT_EQ(desk.published.kind, ChangeKind::kRecovery);
  EXPECT_EQ(desk.published.target.version, 6);
}

// A version that was cut short in the middle of the optimizer's step is none.
TEST(CoordinatorRecovery, AVersionThatWasCutShortIsNoCandidate) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(Report{{2}, 1, 6, false, {}});

  EXPECT_EQ(desk.published.target.version, 5);
}

// Even an older live version is taken before a snapshot: it lies in device memory already.
TEST(CoordinatorRecovery, SnapshotsComeBehindLiveVersions) {
  CoordinatorDesk desk = halted();
  (void)desk.give(Report{{1}, 1, 5, true, {6, 3}});
  (void)desk.give(Report{{2}, 1, 5, true, {3}});
  (void)desk.give(PrepareFailed{{1}, 2, "a shard has no owner", true});

  EXPECT_EQ(desk.published.target.version, 6);
}

TEST(CoordinatorRecovery, DescribesWhatEachMemberHolds) {
  CoordinatorDesk desk = halted();
  (void)desk.give(Join{{4}, "host"});
  (void)desk.give(Report{{1}, 1, 6, true, {}});
  (void)desk.give(Report{{2}, 1, 5, true, {6}});

  const std::vector<Holding> expected{
      Holding::kLive, Holding::kSnapshot, Holding::kAbsent, Holding::kNothing};
  EXPECT_EQ(desk.published.holdings, expected);
}

// All stand still: there is no step to agree on.
TEST(CoordinatorRecovery, GoesWithoutAProposal) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));

  const auto actions = desk.prepare({1, 2});

  ASSERT_EQ(sent<Go>(actions).size(), 2U);
  EXPECT_EQ(sent<Go>(actions)[0].second.step, 5);
}

TEST(CoordinatorRecovery, AStepThatFailedWithAllAliveKeepsItsMembers) {
  CoordinatorDesk desk = broken();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));

  EXPECT_EQ(desk.published.target.members, (std::vector<MemberId>{{1}, {2}}));
}

// Members wait: the next version is tried in the same moment, without a pause.
TEST(CoordinatorRecovery, AVersionThatIsNotCoveredIsFollowedByTheNextAtOnce) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 6));
  (void)desk.give(clean(2, 5));

  EXPECT_EQ(sent<Prepare>(desk.give(PrepareFailed{{1}, 2, "no owner", true})).size(), 2U);
  EXPECT_EQ(desk.published.target.version, 5);
}

// Lack of memory is no lack of state: the same version is tried again after the pause.
TEST(CoordinatorRecovery, AnotherFailureTriesTheSameVersionAgain) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 6));
  (void)desk.give(clean(2, 5));
  EXPECT_TRUE(sent<Prepare>(desk.give(PrepareFailed{{1}, 2, "no memory", false})).empty());

  (void)desk.wait(desk.deadlines().back_off_ms);

  EXPECT_EQ(desk.published.attempt, 3);
  EXPECT_EQ(desk.published.target.version, 6);
}

TEST(CoordinatorRecovery, WithoutACoveredVersionItWaitsAndSaysSo) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));

  (void)desk.give(PrepareFailed{{1}, 2, "no owner", true});  // the other layout is tried, too
  EXPECT_TRUE(sent<Prepare>(desk.give(PrepareFailed{{1}, 3, "no owner", true})).empty());
  EXPECT_EQ(desk.status().waits_for,
            "none of the 1 reported versions can be put together; the job needs a checkpoint: "
            "member 1 cannot prepare: no owner");
}

// The members stood for ever, and only who asked for the status learned why.
TEST(CoordinatorRecovery, AStateThatIsGoneIsToldToThoseWhoHold) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));
  EXPECT_TRUE(sent<Holds>(desk.give(halted_beat(1))).empty());  // an attempt is open
  (void)desk.give(PrepareFailed{{1}, 2, "no owner", true});
  (void)desk.give(PrepareFailed{{1}, 3, "no owner", true});

  const auto told = sent<Holds>(desk.give(halted_beat(2)));

  ASSERT_EQ(told.size(), 1U);
  EXPECT_TRUE(told[0].second.is_gone);
  EXPECT_EQ(told[0].second.why, desk.status().waits_for);
}

// The first that heard of it ended, and the last one waited for members: for ever, as they would
// bring nothing back.
TEST(CoordinatorRecovery, AStateStaysGoneWhereTooFewAreLeftToTryAgain) {
  CoordinatorDesk desk({{"dp=3", 3}, {"dp=2", 2}});
  desk.make_world({1, 2, 3});
  (void)desk.give(ConnectionClosed{{3}});
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));
  (void)desk.give(PrepareFailed{{1}, 2, "no owner", true});
  (void)desk.give(Gone{{1}, false});

  const auto told = sent<Holds>(desk.give(halted_beat(2)));

  ASSERT_EQ(told.size(), 1U);
  EXPECT_TRUE(told[0].second.is_gone);
}

// A model that no layout of the few who are left can take is whole, and one who comes saves it.
TEST(CoordinatorRecovery, AStateIsNotGoneWhereTheTargetMayBeAtFault) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));
  (void)desk.give(PrepareFailed{{1}, 2, "it cuts no head", true, true});
  (void)desk.give(PrepareFailed{{1}, 3, "it cuts no head", true, true});

  const auto told = sent<Holds>(desk.give(halted_beat(2)));

  ASSERT_EQ(told.size(), 1U);
  EXPECT_FALSE(told[0].second.is_gone);
}

TEST(CoordinatorRecovery, WhoHoldsForMembersIsToldSo) {
  CoordinatorDesk desk({{"dp=2", 2}});
  desk.make_world({1, 2});
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(clean(1, 5));

  const auto told = sent<Holds>(desk.give(halted_beat(1)));

  ASSERT_EQ(told.size(), 1U);
  EXPECT_FALSE(told[0].second.is_gone);
  EXPECT_EQ(told[0].second.why, "1 members are available, the smallest layout needs 2");
}

// "A member is lost" does not tell an operator which machine to look at.
TEST(CoordinatorRecovery, AHaltNamesWhoIsLost) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});

  const auto halts = sent<Halt>(desk.give(ConnectionClosed{{3}}));

  ASSERT_EQ(halts.size(), 2U);
  EXPECT_EQ(halts[0].second.why,
            "member 3 (rank 2 of dp=3, host) was lost: its connection was closed");
}

TEST(CoordinatorRecovery, WithoutEnoughMembersItWaitsAndSaysSo) {
  CoordinatorDesk desk({{"dp=2", 2}});
  desk.make_world({1, 2});
  (void)desk.give(ConnectionClosed{{2}});

  EXPECT_TRUE(sent<Prepare>(desk.give(clean(1, 5))).empty());
  EXPECT_EQ(desk.status().waits_for, "1 members are available, the smallest layout needs 2");
}

// Members hold: there is no waiting for more to join.
TEST(CoordinatorRecovery, ANewMemberEndsTheWaitAtOnce) {
  CoordinatorDesk desk({{"dp=2", 2}});
  desk.make_world({1, 2});
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(clean(1, 5));

  EXPECT_EQ(sent<Prepare>(desk.give(Join{{3}, "host"})).size(), 2U);
}

// The second failure strikes while the first is mended.
TEST(CoordinatorRecovery, AMemberThatIsLostInARecoveryIsLeftOutOfTheNext) {
  CoordinatorDesk desk = halted();
  (void)desk.give(clean(1, 5));
  (void)desk.give(clean(2, 5));

  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.wait_with({1}, desk.deadlines().back_off_ms);

  EXPECT_EQ(desk.published.attempt, 3);
  EXPECT_EQ(desk.published.target.members, std::vector<MemberId>{{1}});
}

// A planned change under way must not take up a world whose member has died.
TEST(CoordinatorRecovery, AHaltAbortsTheOpenAttempt) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});

  const auto actions = desk.give(StepFailed{{1}, 1, {}});

  EXPECT_EQ(persisted<AttemptAborted>(actions).size(), 1U);
}

}  // namespace
}  // namespace dynatrain::membership
