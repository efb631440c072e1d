#include "dynatrain/membership/status.hpp"

#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"

namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::two_or_one;
using testing::up_to_three;

/// Members 1 and 2 train; 3 has joined, and all have been asked to prepare.
CoordinatorDesk with_a_third() {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});
  return desk;
}

// "Why does nothing happen?" is the question that a status is asked for.
TEST(Status, SaysThatMoreMembersMayJoin) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.come(1);

  EXPECT_EQ(desk.status().waits_for,
            "the next world is chosen once nobody has come, gone or asked for a while");
  EXPECT_EQ(desk.status().seconds_left, 0.5);
}

TEST(Status, SaysThatTheWorldIsTheOneThatIsWanted) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.wait(desk.deadlines().settle_ms);

  EXPECT_EQ(desk.status().phase, Phase::kSteady);
  EXPECT_EQ(desk.status().waits_for, "the present world is the one that is wanted");
  EXPECT_EQ(desk.status().seconds_left, 0);
}

TEST(Status, NamesTheWish) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.give(Resize{"dp=1"});

  EXPECT_EQ(desk.status().wish, "dp=1");
}

TEST(Status, SaysWhyAWishIsNotFollowed) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Resize{"dp=8"});
  (void)desk.wait(desk.deadlines().settle_ms);

  EXPECT_EQ(desk.status().waits_for,
            "the present world stays: the wished layout 'dp=8' is not in the list of layouts");
}

TEST(Status, CountsWhoIsNotPreparedYet) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1});

  EXPECT_EQ(desk.status().phase, Phase::kPreparing);
  EXPECT_EQ(desk.status().waits_for, "attempt 2 waits for 2 of 3 members to be prepared");
  EXPECT_EQ(desk.status().seconds_left, 300);
}

TEST(Status, NamesTheStepThatIsProposed) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2, 3}, 7);

  EXPECT_EQ(desk.status().phase, Phase::kPromising);
  EXPECT_EQ(desk.status().waits_for,
            "attempt 2 waits for 2 of 3 members to answer the proposal of step 9");
}

TEST(Status, CountsTheVotesThatAreMissing) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2, 3}, 7);
  (void)desk.promise({1, 2});
  (void)desk.vote({3});

  EXPECT_EQ(desk.status().phase, Phase::kCommitting);
  EXPECT_EQ(desk.status().waits_for,
            "attempt 2 waits for 2 of 3 members to switch at step 9 and vote");
}

TEST(Status, SaysWhyTheLastAttemptFailedAndForHowLongItPauses) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(PrepareFailed{{3}, 2, "no memory", false});

  EXPECT_EQ(desk.status().last_failure, "member 3 cannot prepare: no memory");
  EXPECT_EQ(desk.status().waits_for, "pause after a failed attempt");
  EXPECT_EQ(desk.status().seconds_left, 1);
}

TEST(Status, SaysThatReportsAreMissing) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(StepFailed{{1}, 1, {}});

  EXPECT_EQ(desk.status().phase, Phase::kHalting);
  EXPECT_EQ(desk.status().waits_for, "members of the halted world have not reported yet");
}

TEST(Status, ShowsRanksAndSpares) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Join{{3}, "host"});

  const Status status = desk.status();

  ASSERT_EQ(status.members.size(), 3U);
  EXPECT_EQ(status.members[1].rank, 1);
  EXPECT_EQ(status.members[2].role, Role::kSpare);
  EXPECT_FALSE(status.members[2].rank.has_value());
}

TEST(Status, CountsTheLostAndDoesNotListThem) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(ConnectionClosed{{3}});

  EXPECT_EQ(desk.status().num_lost, 1);
  EXPECT_EQ(desk.status().members.size(), 2U);
}

TEST(Status, SaysThatTheJobHasFinished) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Gone{{1}, true});

  EXPECT_EQ(desk.status().phase, Phase::kFinished);
  EXPECT_EQ(desk.status().waits_for, "the job has finished");
}

// A policy may be the user's own: what it does wrong must not become a world.
TEST(Status, SaysWhatIsWrongWithAPolicysChoice) {
  CoordinatorOptions options;
  options.policy = [](const PolicyInput&) { return PolicyChoice{"dp=1", {{9}}, {}}; };
  Coordinator machine(options, {}, 0);
  (void)machine.handle(0, Join{{1}, "host"});
  (void)machine.handle(0, Report{{1}, 0, 0, false, {}});
  (void)machine.handle(500, Tick{});

  EXPECT_EQ(machine.status(500).waits_for, "the policy chose member 9, which is not available");
}

}  // namespace
}  // namespace dynatrain::membership
