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
bool is_tried_again(CoordinatorDesk& desk) {
  for (int i = 0; i < 480; ++i) {
    if (!sent<Prepare>(desk.wait_with({1, 2, 3}, 250)).empty()) {
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

// Nobody trains yet, and all that try to begin end in the same error.
TEST(CoordinatorRefusals, AFirstWorldThatMembersRefuseIsNotTriedAgain) {
  CoordinatorDesk desk(up_to_three());
  (void)desk.join({1, 2, 3});
  for (int i = 0; i < desk.options().max_refused; ++i) {
    (void)desk.prepare({1, 2, 3});
    (void)desk.give(Vote{{1}, desk.published.attempt, false, "no such layer", true});
    EXPECT_EQ(is_tried_again(desk), i + 1 < desk.options().max_refused);
  }

  EXPECT_NE(desk.status().waits_for.find("no such layer"), std::string::npos);
}

}  // namespace
}  // namespace dynatrain::membership
