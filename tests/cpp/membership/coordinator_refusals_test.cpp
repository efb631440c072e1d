#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"

namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::sent;
using testing::up_to_three;

/// Members 1 and 2 train; 3 has joined, and all have been asked to prepare.
CoordinatorDesk with_a_third() {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});
  return desk;
}

/// Waits until another attempt is begun, for two minutes at most; whether one was.
bool is_tried_again(CoordinatorDesk& desk, const std::vector<std::uint64_t>& alive = {1, 2, 3}) {
  for (int i = 0; i < 480; ++i) {
    if (!sent<Prepare>(desk.wait_with(alive, 250)).empty()) {
      return true;
    }
  }
  return false;
}

void fail_preparation(CoordinatorDesk& desk, const std::string& why) {
  (void)desk.give(PrepareFailed{{3}, desk.published.attempt, why, false});
}

void fail_in_the_stop(CoordinatorDesk& desk, bool is_refusal) {
  (void)desk.prepare({1, 2, 3}, 7);
  (void)desk.promise({1, 2});
  (void)desk.give(Vote{{3}, desk.published.attempt, false, "tp=3 cuts no head", is_refusal});
}

// Where the tensors of members differ from step to step, no two boundaries fit together: the change
// was tried for ever. In the stop all stand at one step.
TEST(CoordinatorRefusals, WhatCannotBePreparedAheadIsPreparedInTheStop) {
  CoordinatorDesk desk = with_a_third();
  const int most = desk.options().max_unprepared;
  for (int i = 0; i < most; ++i) {
    EXPECT_EQ(desk.published.cold_because, "");
    fail_preparation(desk, "other tensors");
    ASSERT_TRUE(is_tried_again(desk));
  }

  EXPECT_EQ(desk.published.cold_because, "member 3 cannot prepare: other tensors");
}

// A member that leaves in the same moment, or is slow once, is no reason to stop training longer.
TEST(CoordinatorRefusals, AFailureOfTheSwitchItselfCountsForNoPreparation) {
  CoordinatorDesk desk = with_a_third();
  for (int i = 0; i < desk.options().max_unprepared; ++i) {
    fail_in_the_stop(desk, false);
    ASSERT_TRUE(is_tried_again(desk));
  }

  EXPECT_EQ(desk.published.cold_because, "");
}

TEST(CoordinatorRefusals, AnotherMemberMakesItAnotherChange) {
  CoordinatorDesk desk = with_a_third();
  for (int i = 0; i < desk.options().max_unprepared; ++i) {
    fail_preparation(desk, "other tensors");
    ASSERT_TRUE(is_tried_again(desk));
  }
  ASSERT_NE(desk.published.cold_because, "");
  (void)desk.give(ConnectionClosed{{3}});
  (void)desk.join({4});

  EXPECT_EQ(desk.published.target.members.back(), MemberId{4});
  EXPECT_EQ(desk.published.cold_because, "");
}

// A model that cannot be cut in three stopped the training at every attempt, at last once a minute.
TEST(CoordinatorRefusals, WhatMembersRefuseInTheStopIsNotTriedAgain) {
  CoordinatorDesk desk = with_a_third();
  for (int i = 1; i < desk.options().max_refused; ++i) {
    fail_in_the_stop(desk, true);
    ASSERT_TRUE(is_tried_again(desk));
  }
  fail_in_the_stop(desk, true);

  EXPECT_FALSE(is_tried_again(desk));
  EXPECT_EQ(desk.status().phase, Phase::kSteady);
  EXPECT_NE(desk.status().waits_for.find("the change to 'dp=3' is refused"), std::string::npos);
  EXPECT_NE(desk.status().waits_for.find("tp=3 cuts no head"), std::string::npos);
}

// A link that breaks says nothing of the target.
TEST(CoordinatorRefusals, WhatFailsForAnotherReasonIsTriedOnAndOn) {
  CoordinatorDesk desk = with_a_third();
  for (int i = 0; i < 3 * desk.options().max_refused; ++i) {
    fail_in_the_stop(desk, false);
    ASSERT_TRUE(is_tried_again(desk));
  }
}

TEST(CoordinatorRefusals, ARefusedChangeIsTriedWhenSomebodyComes) {
  CoordinatorDesk desk = with_a_third();
  for (int i = 0; i < desk.options().max_refused; ++i) {
    fail_in_the_stop(desk, true);
    (void)is_tried_again(desk);
  }

  EXPECT_FALSE(sent<Prepare>(desk.join({4})).empty());
}

TEST(CoordinatorRefusals, AnotherWishIsTriedBehindARefusedOne) {
  CoordinatorDesk desk = with_a_third();
  for (int i = 0; i < desk.options().max_refused; ++i) {
    fail_in_the_stop(desk, true);
    (void)is_tried_again(desk);
  }
  (void)desk.give(Resize{"dp=1"});

  ASSERT_TRUE(is_tried_again(desk));
  EXPECT_EQ(desk.published.target.layout, "dp=1");
}

void refuse_in_the_stop(CoordinatorDesk& desk) {
  for (int i = 0; i < desk.options().max_refused; ++i) {
    fail_in_the_stop(desk, true);
    (void)is_tried_again(desk);
  }
}

// It may be an operator who has mended what was in the way.
TEST(CoordinatorRefusals, TheSameWishOnceMoreIsTriedOnceMore) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(Resize{"dp=3"});
  refuse_in_the_stop(desk);
  ASSERT_FALSE(is_tried_again(desk));
  EXPECT_EQ(desk.why_not("dp=3", desk.durable().world.epoch),
            "member 3 voted no: tp=3 cuts no head");
  ASSERT_EQ(desk.status().refused_layouts.size(), 1U);
  EXPECT_EQ(desk.status().refused_layouts[0].layout, "dp=3");
  (void)desk.give(Resize{"dp=3"});

  EXPECT_EQ(desk.why_not("dp=3", desk.durable().world.epoch), "");
  EXPECT_TRUE(is_tried_again(desk));
}

// A script that asks for the layout that it is in would wait for a switch that never comes.
TEST(CoordinatorRefusals, AWishForThePresentLayoutIsToldThatItStands) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  const World world = desk.durable().world;
  (void)desk.give(Resize{world.layout});

  EXPECT_EQ(desk.why_not(world.layout, world.epoch), "the job is in it already");
  EXPECT_EQ(desk.why_not(world.layout, world.epoch - 1), "")
      << "the report of a switch is on its way";
}

// It was told that no switch follows, and the switch came.
TEST(CoordinatorRefusals, AWishWhoseChangeIsUnderWayMayStillComeTrue) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(Resize{"dp=3"});
  ASSERT_EQ(desk.status().phase, Phase::kPreparing);
  (void)desk.give(Resize{"dp=1"});

  EXPECT_EQ(desk.why_not("dp=3", desk.durable().world.epoch), "");
  (void)desk.give(Gone{{3}, false});
  EXPECT_EQ(desk.why_not("dp=3", desk.durable().world.epoch), "'dp=1' was wished for since");
}

// The first of the list would stop training for a layout that nobody asked for.
TEST(CoordinatorRefusals, BehindARefusedWishThePresentWorldStays) {
  CoordinatorDesk desk(up_to_three());
  (void)desk.give(Resize{"dp=1"});
  desk.make_world({1});
  (void)desk.join({2, 3});
  ASSERT_FALSE(is_tried_again(desk));
  (void)desk.give(Resize{"dp=2"});
  for (int i = 0; i < desk.options().max_refused; ++i) {
    ASSERT_TRUE(is_tried_again(desk));
    (void)desk.prepare({1, 2}, 7);
    (void)desk.promise({1});
    (void)desk.give(Vote{{2}, desk.published.attempt, false, "no room", true});
  }

  EXPECT_FALSE(is_tried_again(desk));
  EXPECT_EQ(desk.status().phase, Phase::kSteady);
  EXPECT_EQ(desk.why_not("dp=1", 1), "'dp=2' was wished for since");
}

// Nobody trains yet: what comes later in the list is better than to wait for nothing.
TEST(CoordinatorRefusals, AFirstWorldIsTheFirstLayoutThatMembersTake) {
  CoordinatorDesk desk(up_to_three());
  (void)desk.join({1, 2, 3});
  std::vector<std::string> tried;
  do {
    tried.push_back(desk.published.target.layout);
    for (const MemberId id : desk.published.target.members) {
      (void)desk.prepare({id.value});
    }
    (void)desk.give(Vote{{1}, desk.published.attempt, false, "no such layer", true});
  } while (is_tried_again(desk));

  EXPECT_EQ(tried, (std::vector<std::string>{"dp=3", "dp=3", "dp=2", "dp=2", "dp=1", "dp=1"}));
  EXPECT_NE(desk.status().waits_for.find("no such layer"), std::string::npos);
}

// Three train, and the third dies: the two that are left cannot take dp=2.
CoordinatorDesk halted_with_two(const std::vector<std::int64_t>& snapshots = {}) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});
  (void)desk.give(ConnectionClosed{{3}});
  (void)desk.give(Report{{1}, 1, 2, true, snapshots});
  (void)desk.give(Report{{2}, 1, 2, true, snapshots});
  return desk;
}

// A job that had another layout to go to stood still for ever.
TEST(CoordinatorRefusals, ARecoveryGoesOnWithWhatItsMembersTake) {
  CoordinatorDesk desk = halted_with_two();
  std::vector<std::string> tried;
  do {
    tried.push_back(desk.published.target.layout);
    (void)desk.give(PrepareFailed{{1}, desk.published.attempt, "no head", false, true});
  } while (tried.size() < 5 && is_tried_again(desk, {1, 2}));

  // All were refused: what has failed may do at another time, as nothing trains until then.
  EXPECT_EQ(tried, (std::vector<std::string>{"dp=2", "dp=2", "dp=1", "dp=1", "dp=2"}));
}

// What was left of the versions was tried in the next layout, and the newest one never.
TEST(CoordinatorRefusals, TheNextLayoutOfARecoveryBeginsWithTheNewestVersion) {
  CoordinatorDesk desk = halted_with_two({1});
  (void)desk.give(PrepareFailed{{1}, desk.published.attempt, "no owner", true});
  ASSERT_EQ(desk.published.target.version, 1);
  for (int i = 0; i < desk.options().max_refused; ++i) {
    (void)desk.give(PrepareFailed{{1}, desk.published.attempt, "no head", false, true});
    ASSERT_TRUE(is_tried_again(desk, {1, 2}));
  }

  EXPECT_EQ(desk.published.target.layout, "dp=1");
  EXPECT_EQ(desk.published.target.version, 2);
}

// Members cannot tell a version that is not whole from a target that none would fit: every version
// is tried in one layout, then every layout.
TEST(CoordinatorRefusals, ARecoveryGoesOnWhereEveryVersionHasFailedInALayout) {
  CoordinatorDesk desk = halted_with_two({1});
  std::vector<std::string> tried;
  do {
    const World& target = desk.published.target;
    tried.push_back(target.layout + " of " + std::to_string(target.version));
    (void)desk.give(PrepareFailed{{1}, desk.published.attempt, "no head", true, true});
  } while (tried.size() < 9 && desk.status().attempt);

  EXPECT_EQ(tried, (std::vector<std::string>{"dp=2 of 2", "dp=2 of 1", "dp=1 of 2", "dp=1 of 1"}));
  EXPECT_FALSE(is_tried_again(desk, {1, 2}));
  EXPECT_NE(desk.status().waits_for.find("none of the 2 reported versions"), std::string::npos);
}

TEST(CoordinatorRefusals, WhatFailsInARecoveryForAnotherReasonIsNoRefusal) {
  CoordinatorDesk desk = halted_with_two();
  for (int i = 0; i < 3 * desk.options().max_refused; ++i) {
    EXPECT_EQ(desk.published.target.layout, "dp=2");
    (void)desk.give(PrepareFailed{{1}, desk.published.attempt, "a link broke", false, false});
    ASSERT_TRUE(is_tried_again(desk, {1, 2}));
  }
}

}  // namespace
}  // namespace dynatrain::membership
