// The policy of a script is asked before a world is chosen, and the job goes on without an answer.

#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::up_to_three;

/// The questions among actions.
std::vector<Consult> asked(const std::vector<CoordinatorAction>& actions) {
  std::vector<Consult> found;
  for (const CoordinatorAction& action : actions) {
    if (const auto* const one = std::get_if<Consult>(&action)) {
      found.push_back(*one);
    }
  }
  return found;
}

bool is_begun(const std::vector<CoordinatorAction>& actions) {
  return !testing::persisted<AttemptBegun>(actions).empty();
}

Advice says(std::int64_t number, int world_size) {
  return {number, "tp=" + std::to_string(world_size), world_size, {}};
}

/// Members 1 and 2 of which 2 has a policy, that has just been asked: question 1.
CoordinatorDesk consulting() {
  CoordinatorDesk desk(up_to_three());
  (void)desk.come(1);
  (void)desk.come(2);
  (void)desk.give(Advises{{2}});
  (void)desk.wait(CoordinatorDesk::deadlines().settle_ms);
  return desk;
}

// A world that is chosen first and corrected afterwards costs two switches.
TEST(Advice, IsAskedForBeforeTheFirstWorldIsChosen) {
  CoordinatorDesk desk(up_to_three());
  (void)desk.come(1);
  (void)desk.come(2);
  (void)desk.give(Advises{{2}});
  const auto settled = desk.wait(CoordinatorDesk::deadlines().settle_ms);
  ASSERT_EQ(asked(settled).size(), 1U);
  EXPECT_EQ(asked(settled)[0].to, MemberId{2});
  EXPECT_FALSE(is_begun(settled));
  EXPECT_EQ(desk.status().waits_for, "the policy of a script is asked");

  EXPECT_TRUE(is_begun(desk.give(says(1, 1))));
  EXPECT_EQ(desk.published.target.layout, "tp=1");
}

// Scripts may differ; one decides, and which one is the same for whoever looks.
TEST(Advice, IsAskedOfWhoJoinedFirst) {
  CoordinatorDesk desk(up_to_three());
  for (const std::uint64_t id : {7U, 3U, 5U}) {
    (void)desk.come(id);
  }
  (void)desk.give(Advises{{5}});
  (void)desk.give(Advises{{3}});
  const auto settled = desk.wait(CoordinatorDesk::deadlines().settle_ms);

  ASSERT_EQ(asked(settled).size(), 1U);
  EXPECT_EQ(asked(settled)[0].to, MemberId{3});
}

TEST(Advice, IsNotAskedForWhereNobodyGivesAny) {
  CoordinatorDesk desk(up_to_three());
  const auto settled = desk.join({1, 2});

  EXPECT_TRUE(asked(settled).empty());
  EXPECT_TRUE(is_begun(settled));
}

// A policy that hangs must not hold the job up for longer than a deadline.
TEST(Advice, ThatDoesNotComeIsDoneWithout) {
  CoordinatorDesk desk = consulting();
  const auto waited = desk.wait_with({1, 2}, CoordinatorDesk::deadlines().advice_ms);

  EXPECT_TRUE(is_begun(waited));
  EXPECT_EQ(desk.published.target.layout, "dp=2");
}

// Slow is not wrong.
TEST(Advice, ThatIsLateIsFollowed) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.give(Advises{{1}});
  const auto settled = desk.wait(CoordinatorDesk::deadlines().settle_ms);
  ASSERT_EQ(asked(settled).size(), 1U);
  EXPECT_FALSE(is_begun(desk.wait_with({1, 2}, CoordinatorDesk::deadlines().advice_ms)));

  EXPECT_TRUE(is_begun(desk.give(says(asked(settled)[0].number, 1))));
}

TEST(Advice, ThatComesDuringAnAttemptIsAskedForAnewBehindIt) {
  CoordinatorDesk desk = consulting();
  (void)desk.wait_with({1, 2}, CoordinatorDesk::deadlines().advice_ms);
  (void)desk.prepare({1, 2});
  (void)desk.give(says(1, 1));  // on the world of then
  (void)desk.vote({1, 2});
  const auto settled = desk.wait_with({1, 2}, CoordinatorDesk::deadlines().settle_ms);
  ASSERT_EQ(asked(settled).size(), 1U);
  EXPECT_TRUE(is_begun(desk.give(says(2, 1))));

  EXPECT_EQ(desk.published.target.layout, "tp=1");
}

// Whoever has come meanwhile was not thought of.
TEST(Advice, IsVoidWhenSomebodyComes) {
  CoordinatorDesk desk = consulting();
  (void)desk.come(3);
  const std::int64_t num_stale = desk.status().num_stale;
  EXPECT_FALSE(is_begun(desk.give(says(1, 2))));
  EXPECT_EQ(desk.status().num_stale, num_stale + 1);
  const auto settled = desk.wait(CoordinatorDesk::deadlines().settle_ms);

  ASSERT_EQ(asked(settled).size(), 1U);
  EXPECT_EQ(asked(settled)[0].number, 2);
}

// Who was asked has died of the question, or with it.
TEST(Advice, IsAskedOfTheNextWhenWhoWasAskedIsLost) {
  CoordinatorDesk desk = consulting();
  (void)desk.give(Advises{{1}});
  (void)desk.wait(CoordinatorDesk::deadlines().settle_ms);  // now 1 is asked
  (void)desk.give(ConnectionClosed{{1}});
  const auto settled = desk.wait(CoordinatorDesk::deadlines().settle_ms);

  ASSERT_EQ(asked(settled).size(), 1U);
  EXPECT_EQ(asked(settled)[0].to, MemberId{2});
}

TEST(Advice, ToWaitHoldsUntilSomebodyComes) {
  CoordinatorDesk desk = consulting();
  EXPECT_FALSE(is_begun(desk.give(Advice{1, {}, 0, {}})));
  EXPECT_FALSE(is_begun(desk.wait_with({1, 2}, CoordinatorDesk::deadlines().advice_ms)));
  EXPECT_EQ(desk.status().waits_for, "the script's policy waits for others to come or go");

  (void)desk.come(3);
  EXPECT_EQ(asked(desk.wait(CoordinatorDesk::deadlines().settle_ms)).size(), 1U);
}

// The way out of a failure is chosen by the same policy, or a second change would follow it.
TEST(Advice, IsAskedForBeforeARecovery) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});
  (void)desk.give(Advises{{1}});
  (void)desk.give(ConnectionClosed{{3}});
  (void)desk.give(Report{{1}, 1, 5, true, {}});
  const auto reported = desk.give(Report{{2}, 1, 5, true, {}});
  ASSERT_EQ(asked(reported).size(), 1U);
  EXPECT_FALSE(is_begun(reported));

  EXPECT_TRUE(is_begun(desk.give(says(asked(reported)[0].number, 1))));
  EXPECT_EQ(desk.published.target.layout, "tp=1");
  EXPECT_EQ(desk.published.kind, ChangeKind::kRecovery);
}

// A failed attempt is tried again as it was; nobody has come or gone.
TEST(Advice, StandsForTheNextAttempt) {
  CoordinatorDesk desk = consulting();
  (void)desk.give(says(1, 2));
  (void)desk.give(PrepareFailed{{1}, desk.published.attempt, "no memory", false});
  const auto again = desk.wait_with({1, 2}, CoordinatorDesk::deadlines().back_off_ms);

  EXPECT_TRUE(asked(again).empty());
  EXPECT_TRUE(is_begun(again));
  EXPECT_EQ(desk.published.target.layout, "tp=2");
}

}  // namespace
}  // namespace dynatrain::membership
