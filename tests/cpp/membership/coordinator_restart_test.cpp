#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"

namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::persisted;
using testing::sent;
using testing::two_or_one;
using testing::up_to_three;

Heartbeat beat(std::uint64_t member, std::int64_t attempt, Stage stage) {
  Heartbeat message;
  message.id = {member};
  message.attempt = attempt;
  message.stage = stage;
  return message;
}

/// Two members have been told to go, and the coordinator has died.
CoordinatorDesk restarted_in_an_attempt() {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2});
  (void)desk.prepare({1, 2});
  desk.restart();
  return desk;
}

// A commit is on disk before it is told: what is not on disk was told to nobody.
TEST(CoordinatorRestart, AnOpenAttemptIsAborted) {
  CoordinatorDesk desk = restarted_in_an_attempt();

  const auto actions = desk.give(Tick{});

  ASSERT_EQ(persisted<AttemptAborted>(actions).size(), 1U);
  EXPECT_EQ(persisted<AttemptAborted>(actions)[0].attempt, 1);
}

// A vote that was under way while the coordinator was down comes to an attempt that is over.
TEST(CoordinatorRestart, VotesForTheAttemptBeforeAreNotCounted) {
  CoordinatorDesk desk = restarted_in_an_attempt();

  EXPECT_TRUE(persisted<AttemptCommitted>(desk.vote({1, 2})).empty());
}

TEST(CoordinatorRestart, AMemberThatHasVotedLearnsOfTheAbort) {
  CoordinatorDesk desk = restarted_in_an_attempt();

  const auto told = sent<Decision>(desk.give(beat(1, 1, Stage::kVoted)));

  ASSERT_EQ(told.size(), 1U);
  EXPECT_FALSE(told[0].second.is_commit);
}

TEST(CoordinatorRestart, AMemberThatHasVotedLearnsOfTheCommit) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  desk.restart();

  const auto told = sent<Decision>(desk.give(beat(1, 1, Stage::kVoted)));

  ASSERT_EQ(told.size(), 1U);
  EXPECT_TRUE(told[0].second.is_commit);
}

// A number that is used again would let a late vote decide another attempt.
TEST(CoordinatorRestart, NumbersOfAttemptsAreNotUsedAgain) {
  CoordinatorDesk desk = restarted_in_an_attempt();
  (void)desk.give(Tick{});
  (void)desk.find(1);
  (void)desk.find(2);

  (void)desk.wait(desk.deadlines().back_off_ms);

  EXPECT_EQ(desk.published.attempt, 2);
}

// Members could not be heard while nobody listened.
TEST(CoordinatorRestart, MembersHaveTheirWholeTimeToBeHeardAgain) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  desk.now_ms += 60'000;
  desk.restart();

  const std::int64_t most_ms = desk.deadlines().lost_after_ms - 1;
  EXPECT_TRUE(persisted<MemberLost>(desk.wait_with({1}, most_ms)).empty());
  EXPECT_EQ(persisted<MemberLost>(desk.wait_with({1}, 1)).size(), 1U);
}

// Halt may have reached nobody.
TEST(CoordinatorRestart, AHaltedWorldIsToldToHaltAgain) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(StepFailed{{1}, 1, {}});
  desk.restart();

  EXPECT_EQ(sent<Halt>(desk.give(Tick{})).size(), 2U);
}

// The loss was written, and the coordinator died before it wrote the halt.
TEST(CoordinatorRestart, AWorldThatLacksAMemberIsHalted) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  desk.disk.emplace_back(MemberLost{{2}, "its connection was closed"});
  desk.restart();

  EXPECT_EQ(persisted<WorldHalted>(desk.give(Tick{})).size(), 1U);
}

TEST(CoordinatorRestart, TheLostStayLost) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.give(ConnectionClosed{{2}});
  desk.restart();

  EXPECT_EQ(sent<Lost>(desk.give(beat(2, 0, Stage::kNone))).size(), 1U);
}

// What the machine holds to be durable is what a reader of the disk finds.
TEST(CoordinatorRestart, TheDiskHoldsAllThatIsDurable) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});
  (void)desk.give(PrepareFailed{{3}, 2, "no memory", false});
  (void)desk.give(Resize{"dp=1"});
  (void)desk.give(Drain{{3}});
  (void)desk.give(ConnectionClosed{{2}});

  EXPECT_EQ(replay_ledger(desk.disk), desk.durable());
}

/// What a coordinator that has this ledger does at a heartbeat of member 1, in this epoch.
std::vector<CoordinatorAction> heard_with(std::vector<Record> ledger,
                                          std::int64_t epoch,
                                          std::int64_t closed_attempt) {
  CoordinatorDesk desk(two_or_one());
  desk.disk = std::move(ledger);
  desk.restart();
  Heartbeat message;
  message.id = {1};
  message.epoch = epoch;
  message.closed_attempt = closed_attempt;
  return desk.give(message);
}

std::vector<Record> ledger_of_two() {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  return desk.disk;
}

bool abdicates(const std::vector<CoordinatorAction>& actions) {
  return actions.size() == 1 && std::holds_alternative<Abdicate>(actions[0]);
}

// A ledger that was removed, or brought back from a copy, once ended members that were healthy.
TEST(CoordinatorRestart, WithALedgerThatDoesNotKnowItsMembersItEnds) {
  EXPECT_TRUE(abdicates(heard_with({}, 1, 1)));
}

TEST(CoordinatorRestart, WithALedgerThatIsOlderThanItsMembersItEnds) {
  EXPECT_TRUE(abdicates(heard_with(ledger_of_two(), 2, 1)));
  EXPECT_TRUE(abdicates(heard_with(ledger_of_two(), 1, 2)));
  EXPECT_FALSE(abdicates(heard_with(ledger_of_two(), 1, 1)));
}

TEST(CoordinatorRestart, WhenItHasEndedItDoesNothingMore) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.give(Heartbeat{{1}, 1});

  EXPECT_TRUE(desk.give(Join{{2}, "host"}).empty());
  EXPECT_TRUE(desk.wait(desk.deadlines().lost_after_ms).empty());
}

}  // namespace
}  // namespace dynatrain::membership
