#include "dynatrain/membership/worker.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "membership/worker_desk.hpp"

namespace dynatrain::membership {
namespace {

using testing::found;
using testing::told;
using testing::WorkerDesk;

/// Trains step 0 of epoch 1.
WorkerDesk training() {
  WorkerDesk desk;
  desk.begin_world();
  return desk;
}

/// ... has completed step 0, begun step 1, and is prepared for attempt 2.
WorkerDesk prepared() {
  WorkerDesk desk = training();
  (void)desk.give(AtBoundary{1});
  (void)desk.hear(Prepare{2, ChangeKind::kPlanned, 1, true, 2, 0});
  (void)desk.give(PrepareDone{2});
  return desk;
}

/// ... has promised to stop at step 3.
WorkerDesk promised() {
  WorkerDesk desk = prepared();
  (void)desk.hear(Propose{2, 1, 3});
  return desk;
}

/// ... and stands there.
WorkerDesk holding() {
  WorkerDesk desk = promised();
  (void)desk.give(AtBoundary{2});
  (void)desk.give(AtBoundary{3});
  return desk;
}

/// ... has switched, and voted yes.
WorkerDesk voted() {
  WorkerDesk desk = holding();
  (void)desk.hear(Go{2, 1, 3});
  (void)desk.give(SwitchMoved{2});
  return desk;
}

// ---- the promise -------------------------------------------------------------------------------

TEST(WorkerPromise, IsYesForAStepThatHasNotBegun) {
  WorkerDesk desk = prepared();

  const auto promises = told<Promise>(desk.hear(Propose{2, 1, 2}));

  ASSERT_EQ(promises.size(), 1U);
  EXPECT_TRUE(promises[0].is_yes);
}

// Step 1 runs: its boundary is passed, though the version is still 1.
TEST(WorkerPromise, IsNoForAStepThatHasBegun) {
  WorkerDesk desk = prepared();

  const auto promises = told<Promise>(desk.hear(Propose{2, 1, 1}));

  ASSERT_EQ(promises.size(), 1U);
  EXPECT_FALSE(promises[0].is_yes);
  EXPECT_EQ(promises[0].version, 1);
}

TEST(WorkerPromise, LetsTheStepsBelowItBegin) {
  WorkerDesk desk = promised();

  EXPECT_EQ(found<Train>(desk.give(AtBoundary{2})).size(), 1U);
}

TEST(WorkerPromise, HoldsAtItsStep) {
  WorkerDesk desk = promised();
  (void)desk.give(AtBoundary{2});

  EXPECT_TRUE(found<Train>(desk.give(AtBoundary{3})).empty());
  EXPECT_EQ(desk.machine.holds_because(), "stands at step 3 of attempt 2");
}

// Another member may have refused this step: then none switches at it.
TEST(WorkerPromise, DoesNotSwitchBeforeAllHavePromised) {
  WorkerDesk desk = holding();

  EXPECT_TRUE(found<RunSwitch>(desk.give(Tick{})).empty());
  EXPECT_EQ(found<RunSwitch>(desk.hear(Go{2, 1, 3})).size(), 1U);
}

TEST(WorkerPromise, AnEarlierProposalThatComesLateIsStale) {
  WorkerDesk desk = prepared();
  (void)desk.hear(Propose{2, 2, 5});

  EXPECT_TRUE(desk.hear(Propose{2, 1, 3}).empty());
  EXPECT_EQ(desk.machine.num_stale(), 1);
}

// A later proposal frees from the one before: another step was agreed on.
TEST(WorkerPromise, ALaterProposalTakesThePlaceOfTheOneBefore) {
  WorkerDesk desk = holding();

  EXPECT_EQ(found<Train>(desk.hear(Propose{2, 2, 5})).size(), 1U);
}

TEST(WorkerPromise, GoForAnotherProposalIsStale) {
  WorkerDesk desk = prepared();
  (void)desk.hear(Propose{2, 2, 5});

  (void)desk.hear(Go{2, 1, 3});

  EXPECT_EQ(desk.machine.num_stale(), 1);
}

// The coordinator may be gone for good: the old world trains on without it.
TEST(WorkerPromise, IsGivenUpAfterItsDeadline) {
  WorkerDesk desk = holding();

  const auto actions = desk.wait(desk.deadlines().hold_ms);

  ASSERT_EQ(told<Vote>(actions).size(), 1U);
  EXPECT_FALSE(told<Vote>(actions)[0].is_yes);
  EXPECT_EQ(found<Train>(actions).size(), 1U);
}

// ---- the vote ----------------------------------------------------------------------------------

// It has said that it can go either way; from here on the decision is not its own.
TEST(WorkerVote, DoesNotPassItsStepBeforeTheDecision) {
  WorkerDesk desk = voted();

  EXPECT_TRUE(found<Train>(desk.wait(1000)).empty());
  EXPECT_TRUE(found<Train>(desk.give(AtBoundary{3})).empty());
}

TEST(WorkerVote, ACommitInstallsTheTargetAtTheStep) {
  WorkerDesk desk = voted();

  const auto actions = desk.hear(Decision{2, true, {}});

  ASSERT_EQ(found<Install>(actions).size(), 1U);
  EXPECT_EQ(found<Install>(actions)[0].version, 3);
  ASSERT_EQ(found<Train>(actions).size(), 1U);
  EXPECT_EQ(found<Train>(actions)[0].epoch, 2);
  EXPECT_EQ(found<Train>(actions)[0].version, 3);
}

TEST(WorkerVote, AnAbortTrainsOnInTheOldWorld) {
  WorkerDesk desk = voted();

  const auto actions = desk.hear(Decision{2, false, "a link broke"});

  ASSERT_EQ(found<Train>(actions).size(), 1U);
  EXPECT_EQ(found<Train>(actions)[0].epoch, 1);
  EXPECT_EQ(found<Train>(actions)[0].version, 3);
}

TEST(WorkerVote, TheDecisionOfAnotherAttemptIsStale) {
  WorkerDesk desk = voted();

  EXPECT_TRUE(desk.hear(Decision{1, true, {}}).empty());
  EXPECT_TRUE(desk.hear(Decision{3, false, {}}).empty());
  EXPECT_EQ(desk.machine.epoch(), 1);
}

// Nobody commits without this member's vote: such a message is not of this protocol.
TEST(WorkerVote, ACommitWithoutItsVoteIsStale) {
  WorkerDesk desk = holding();

  EXPECT_TRUE(desk.hear(Decision{2, true, {}}).empty());
}

TEST(WorkerVote, AsksForTheDecisionWithEveryHeartbeat) {
  WorkerDesk desk = voted();

  const auto beats = told<Heartbeat>(desk.wait(desk.deadlines().heartbeat_ms));

  ASSERT_EQ(beats.size(), 1U);
  EXPECT_EQ(beats[0].attempt, 2);
  EXPECT_EQ(beats[0].stage, Stage::kVoted);
}

// To guess would let two worlds train.
TEST(WorkerVote, EndsUndecidedWhereTheDecisionCannotBeLearnt) {
  WorkerDesk desk = voted();

  const auto ends = found<End>(desk.wait(desk.deadlines().decision_ms));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kUndecided);
}

// Its report would say that it trains in the old world, and it may not know.
TEST(WorkerVote, HaltWaitsForTheDecision) {
  WorkerDesk desk = voted();

  EXPECT_TRUE(desk.hear(Halt{1, {}}).empty());
}

TEST(WorkerVote, ATransferThatFailsIsANo) {
  WorkerDesk desk = holding();
  (void)desk.hear(Go{2, 1, 3});

  const auto actions = desk.give(SwitchBroke{2, "a link broke"});

  ASSERT_EQ(told<Vote>(actions).size(), 1U);
  EXPECT_FALSE(told<Vote>(actions)[0].is_yes);
}

// The next step would write what the transfer still reads.
TEST(WorkerVote, NoStepBeginsWhileATransferThatWasGivenUpStillRuns) {
  WorkerDesk desk = holding();
  (void)desk.hear(Go{2, 1, 3});

  EXPECT_TRUE(found<Train>(desk.hear(Decision{2, false, "late"})).empty());
  EXPECT_EQ(found<Train>(desk.give(SwitchBroke{2, "given up"})).size(), 1U);
}

TEST(WorkerVote, AMemberThatIsNotInTheTargetRetires) {
  WorkerDesk desk = training();
  (void)desk.hear(Prepare{2, ChangeKind::kPlanned, 1, true, 2, -1});
  (void)desk.give(PrepareDone{2});
  (void)desk.hear(Propose{2, 1, 1});
  (void)desk.give(AtBoundary{1});
  (void)desk.hear(Go{2, 1, 1});
  (void)desk.give(SwitchMoved{2});

  const auto actions = desk.hear(Decision{2, true, {}});

  EXPECT_EQ(found<Retire>(actions).size(), 1U);
  EXPECT_EQ(desk.machine.activity(), Activity::kIdle);
}

// ---- failures ----------------------------------------------------------------------------------

TEST(WorkerHalt, OneInNoWorldSaysWhatItFindsOnDisk) {
  WorkerDesk desk;
  (void)desk.give(Tick{});
  (void)desk.hear(Welcome{});

  EXPECT_EQ(found<FindVersions>(desk.hear(Search{3})).size(), 1U);
  EXPECT_TRUE(found<FindVersions>(desk.hear(Search{3})).empty());  // asked again, it looks once
  const auto reports = told<Report>(desk.give(Found{{40, 50}}));
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].epoch, 3);
  EXPECT_FALSE(reports[0].is_clean);
  EXPECT_EQ(reports[0].snapshot_versions, (std::vector<std::int64_t>{50, 40}));
  EXPECT_EQ(found<FindVersions>(desk.hear(Search{3})).size(), 1U);  // the report was lost
}

TEST(WorkerHalt, OneInAWorldDoesNotLookOnDisk) {
  WorkerDesk desk;
  desk.begin_world();

  EXPECT_TRUE(desk.hear(Search{1}).empty());
}

TEST(WorkerHalt, StopsThenReports) {
  WorkerDesk desk = training();

  EXPECT_EQ(found<StopStep>(desk.hear(Halt{1, {}})).size(), 1U);
  const auto reports = told<Report>(desk.give(Stopped{1, true, {0}}));

  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].version, 1);
  EXPECT_TRUE(reports[0].is_clean);
}

TEST(WorkerHalt, AskedAgainReportsTheSame) {
  WorkerDesk desk = training();
  (void)desk.hear(Halt{1, {}});
  (void)desk.give(Stopped{1, true, {0}});

  const auto actions = desk.hear(Halt{1, {}});

  EXPECT_TRUE(found<StopStep>(actions).empty());
  ASSERT_EQ(told<Report>(actions).size(), 1U);
  EXPECT_EQ(told<Report>(actions)[0].version, 1);
}

TEST(WorkerHalt, NoStepBeginsBehindIt) {
  WorkerDesk desk = training();
  (void)desk.hear(Halt{1, {}});

  EXPECT_TRUE(found<Train>(desk.give(AtBoundary{1})).empty());
}

TEST(WorkerHalt, OfAnotherEpochIsStale) {
  WorkerDesk desk = training();

  EXPECT_TRUE(desk.hear(Halt{2, {}}).empty());
}

// More would not fit a message; the newest are worth most.
TEST(WorkerHalt, ReportsTheNewestSnapshots) {
  WorkerDesk desk = training();
  (void)desk.hear(Halt{1, {}});
  Stopped stopped{200, false, {}};
  for (std::int64_t version = 0; version < 100; ++version) {
    stopped.snapshot_versions.push_back(version);
  }

  const auto reports = told<Report>(desk.give(stopped));

  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].snapshot_versions.size(), kMaxSnapshots);
  EXPECT_EQ(reports[0].snapshot_versions.front(), 99);
}

TEST(WorkerHalt, ABrokenStepIsToldAndHolds) {
  WorkerDesk desk = training();

  EXPECT_EQ(told<StepFailed>(desk.give(StepBroke{{{2}}})).size(), 1U);
  EXPECT_TRUE(found<Train>(desk.give(AtBoundary{1})).empty());
}

TEST(WorkerHalt, ABrokenStepIsANoInTheOpenAttempt) {
  WorkerDesk desk = promised();

  EXPECT_EQ(told<Vote>(desk.give(StepBroke{})).size(), 1U);
}

TEST(WorkerHalt, EndsWhereTheCoordinatorIsNotHeard) {
  WorkerDesk desk = training();
  (void)desk.give(StepBroke{});

  const auto ends = found<End>(desk.wait(desk.deadlines().abandon_ms));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kAbandoned);
}

// Its loss stops elasticity, not training.
TEST(WorkerHalt, TrainsOnWhereTheCoordinatorIsNotHeard) {
  WorkerDesk desk = training();
  (void)desk.wait(10 * desk.deadlines().abandon_ms);

  EXPECT_EQ(found<Train>(desk.give(AtBoundary{1})).size(), 1U);
}

// ---- coming and going --------------------------------------------------------------------------

TEST(WorkerLife, JoinsUntilItIsWelcome) {
  WorkerDesk desk;
  EXPECT_EQ(told<Join>(desk.give(Tick{})).size(), 1U);
  EXPECT_EQ(told<Join>(desk.wait(desk.deadlines().heartbeat_ms)).size(), 1U);
  (void)desk.hear(Welcome{});

  EXPECT_EQ(told<Heartbeat>(desk.wait(desk.deadlines().heartbeat_ms)).size(), 1U);
}

TEST(WorkerLife, EndsWhenItIsLostAndDoesNothingMore) {
  WorkerDesk desk = training();

  EXPECT_EQ(found<End>(desk.hear(Lost{"no heartbeat"})).size(), 1U);
  EXPECT_TRUE(desk.give(AtBoundary{1}).empty());
}

// The machine of a host that is taken away has no more time than that.
TEST(WorkerLife, EndsWhenItsGraceIsOver) {
  WorkerDesk desk = training();
  EXPECT_EQ(told<Leave>(desk.give(LeaveWanted{5000})).size(), 1U);

  const auto ends = found<End>(desk.wait(5000));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kGraceOver);
}

TEST(WorkerLife, AFinishedScriptEndsWhenTheCoordinatorKnows) {
  WorkerDesk desk = training();
  EXPECT_EQ(told<Gone>(desk.give(ScriptFinished{})).size(), 1U);

  const auto ends = found<End>(desk.hear(Released{}));

  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].reason, EndReason::kFinished);
}

TEST(WorkerLife, WithoutAnIdOrAHostIsRefused) {
  EXPECT_THROW(Worker(WorkerOptions{{0}, "host", make_deadlines()}, 0), LayoutError);
  EXPECT_THROW(Worker(WorkerOptions{{1}, "", make_deadlines()}, 0), LayoutError);
}

}  // namespace
}  // namespace dynatrain::membership
