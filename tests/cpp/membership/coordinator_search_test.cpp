#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"

/// Where nobody who is there has a state, a world goes on from what members find on disk.
namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::persisted;
using testing::sent;
using testing::two_or_one;

/// Two members have made a world, and are lost.
CoordinatorDesk orphaned() {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(ConnectionClosed{{1}});
  (void)desk.give(ConnectionClosed{{2}});
  return desk;
}

TEST(CoordinatorSearch, TheFirstWorldGoesOnFromTheNewestCheckpoint) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2}, {40, 50});

  EXPECT_EQ(desk.published.kind, ChangeKind::kRecovery);
  EXPECT_EQ(desk.published.target.version, 50);
  ASSERT_EQ(sent<Go>(desk.prepare({1, 2})).size(), 2U);
  EXPECT_EQ(persisted<AttemptCommitted>(desk.vote({1, 2}))[0].world.version, 50);
}

TEST(CoordinatorSearch, WithoutOneTheFirstWorldBeginsAtNothing) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2});

  EXPECT_EQ(desk.published.kind, ChangeKind::kPlanned);
  EXPECT_EQ(sent<Go>(desk.prepare({1, 2}))[0].second.step, 0);
}

// A month of training would begin at step 0 again for a disk that is slow to answer.
TEST(CoordinatorSearch, NoWorldBeginsBeforeAllHaveLooked) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.come(1);
  (void)desk.give(Join{{2}, "host"});

  EXPECT_TRUE(sent<Prepare>(desk.wait(desk.deadlines().settle_ms)).empty());
  EXPECT_EQ(desk.status().waits_for, "1 members look for checkpoints");
  (void)desk.find(2, {50});
  EXPECT_EQ(desk.published.target.version, 50);
}

TEST(CoordinatorSearch, OneThatDoesNotAnswerInTimeIsLost) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.come(1);
  (void)desk.give(Join{{2}, "host"});

  std::vector<MemberLost> lost;
  for (int i = 0; i < 3; ++i) {
    const auto actions = desk.wait_with({1, 2}, desk.deadlines().lost_after_ms - 1);
    const auto more = persisted<MemberLost>(actions);
    lost.insert(lost.end(), more.begin(), more.end());
  }

  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(lost[0].id, MemberId{2});
}

TEST(CoordinatorSearch, AnAnswerThatIsLostIsAskedForAgain) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.give(Join{{1}, "host"});
  Heartbeat beat;
  beat.id = {1};

  EXPECT_EQ(sent<Search>(desk.give(beat)).size(), 1U);
  (void)desk.find(1);
  EXPECT_TRUE(sent<Search>(desk.give(beat)).empty());
}

// All that trained are gone: those who come find what these have written.
TEST(CoordinatorSearch, AWorldWhoseMembersAreAllLostGoesOnFromDisk) {
  CoordinatorDesk desk = orphaned();

  (void)desk.join({3, 4}, {50});

  EXPECT_EQ(desk.published.kind, ChangeKind::kRecovery);
  EXPECT_EQ(desk.published.source.epoch, 1);
  EXPECT_EQ(desk.published.target.version, 50);
  EXPECT_EQ(desk.published.target.members, (std::vector<MemberId>{{3}, {4}}));
}

TEST(CoordinatorSearch, ASpareIsAskedWhenTheLastMemberIsLost) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Join{{3}, "host"});
  (void)desk.give(ConnectionClosed{{1}});

  EXPECT_EQ(sent<Search>(desk.give(ConnectionClosed{{2}})).size(), 1U);
}

// Who holds a state knows more than the disk.
TEST(CoordinatorSearch, NobodyLooksWhileAMemberOfTheWorldLives) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(ConnectionClosed{{1}});

  EXPECT_TRUE(sent<Search>(desk.give(Join{{3}, "host"})).empty());
}

// Nothing stands that would wait: those who come one by one make one world.
TEST(CoordinatorSearch, WaitsForMoreToCome) {
  CoordinatorDesk desk = orphaned();

  EXPECT_TRUE(sent<Prepare>(desk.come(3, {50})).empty());
}

TEST(CoordinatorSearch, ADamagedOneIsFollowedByTheOneBefore) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2}, {40, 50});

  (void)desk.give(PrepareFailed{{1}, 1, "a sum does not fit", true});

  EXPECT_EQ(desk.published.target.version, 40);
}

// It would begin anew in silence, and remove what lies on disk.
TEST(CoordinatorSearch, WithoutOneThatCanBeReadItHoldsAndLooksAgain) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2}, {50});
  (void)desk.give(PrepareFailed{{1}, 1, "a sum does not fit", true});
  EXPECT_EQ(desk.published.target.layout, "dp=1");
  (void)desk.give(PrepareFailed{{1}, 2, "a sum does not fit", true});
  EXPECT_EQ(desk.published.attempt, 2);
  EXPECT_EQ(desk.status().waits_for,
            "none of the 1 reported versions can be put together; the job needs a checkpoint: "
            "member 1 cannot prepare: a sum does not fit");

  EXPECT_EQ(sent<Search>(desk.wait_with({1, 2}, desk.deadlines().back_off_ms)).size(), 2U);
  (void)desk.find(1, {50, 45});
  (void)desk.find(2, {50, 45});

  EXPECT_EQ(desk.published.attempt, 3);
}

TEST(CoordinatorSearch, SaysThatNothingWasFound) {
  CoordinatorDesk desk = orphaned();
  (void)desk.join({3, 4});

  EXPECT_EQ(desk.status().phase, Phase::kRecovering);
  EXPECT_EQ(desk.status().waits_for,
            "all members of the halted world are lost, and nobody finds a checkpoint");
}

// What was said of another world, or by one that has left, counts for nothing in the next halt.
TEST(CoordinatorSearch, WhatWasFoundIsForgottenWithTheNextWorld) {
  CoordinatorDesk desk({{"dp=2", 2}});
  (void)desk.join({1, 2, 3}, {50});
  (void)desk.prepare({1, 2});
  (void)desk.vote({1, 2});
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(Report{{1}, 1, 50, true, {}});

  const std::vector<Holding> expected{Holding::kLive, Holding::kAbsent, Holding::kNothing};
  EXPECT_EQ(desk.published.holdings, expected);
}

}  // namespace
}  // namespace dynatrain::membership
