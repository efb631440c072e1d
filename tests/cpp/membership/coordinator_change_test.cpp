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

/// Members 1 and 2 train; 3 has joined, and all have been asked to prepare.
CoordinatorDesk with_a_third() {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});
  return desk;
}

/// ... and all are prepared; 1 and 2 have been asked to promise.
CoordinatorDesk with_a_proposal() {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2, 3}, 7);
  return desk;
}

// Ten processes of one host join within a second: one change, not ten.
TEST(CoordinatorChange, WaitsUntilMembershipHasSettled) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.come(1);

  EXPECT_TRUE(sent<Prepare>(desk.wait(desk.deadlines().settle_ms - 1)).empty());
  EXPECT_EQ(sent<Prepare>(desk.wait(1)).size(), 1U);
}

// If each join began the wait anew, a steady trickle of hosts would put the change off for ever.
TEST(CoordinatorChange, IsNotPutOffForEverByThoseWhoJoinOneByOne) {
  CoordinatorDesk desk(two_or_one());
  std::size_t num_asked = 0;
  for (std::uint64_t member = 1; member <= 20 && num_asked == 0; ++member) {
    num_asked = sent<Prepare>(desk.come(member)).size();
    desk.now_ms += desk.deadlines().settle_ms - 1;
  }

  EXPECT_GT(num_asked, 0U);
}

// Who is asked reads the description at once: it has to be there.
TEST(CoordinatorChange, IsPersistedThenPublishedThenAsked) {
  CoordinatorDesk desk(two_or_one());

  const auto actions = desk.join({1, 2});

  ASSERT_EQ(actions.size(), 4U);
  EXPECT_TRUE(std::holds_alternative<Persist>(actions[0]));
  EXPECT_TRUE(std::holds_alternative<Publish>(actions[1]));
  EXPECT_TRUE(std::holds_alternative<Send>(actions[2]));
  EXPECT_TRUE(std::holds_alternative<Send>(actions[3]));
}

// A message to one of 1,000 ranks must not name the other 999.
TEST(CoordinatorChange, TellsEachMemberItsOwnPlaceAlone) {
  CoordinatorDesk desk(two_or_one());

  const auto asked = sent<Prepare>(desk.join({1, 2}));

  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[1].first, MemberId{2});
  EXPECT_EQ(asked[1].second.target_rank, 1);
  EXPECT_FALSE(asked[1].second.is_source);
}

// Nobody trains yet who could be asked to stop at a step.
TEST(CoordinatorChange, TheFirstWorldGoesWithoutAProposal) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2});

  const auto actions = desk.prepare({1, 2});

  EXPECT_TRUE(sent<Propose>(actions).empty());
  EXPECT_EQ(sent<Go>(actions).size(), 2U);
}

// A coordinator that dies between the two would abort what it has told to be committed.
TEST(CoordinatorChange, ACommitIsOnDiskBeforeItIsTold) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2});
  (void)desk.prepare({1, 2});

  const auto actions = desk.vote({1, 2});

  EXPECT_TRUE((is_persisted_before_told<AttemptCommitted, Decision>(actions)));
}

TEST(CoordinatorChange, AnAbortIsOnDiskBeforeItIsTold) {
  CoordinatorDesk desk = with_a_third();

  const auto actions = desk.give(PrepareFailed{{3}, 2, "no memory", false});

  EXPECT_TRUE((is_persisted_before_told<AttemptAborted, Decision>(actions)));
}

// The margin is what lets the members train on while the proposal travels.
TEST(CoordinatorChange, ProposesAStepAheadOfTheNewestVersion) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 3}, 7);

  const auto proposed = sent<Propose>(desk.prepare({2}, 9));

  ASSERT_EQ(proposed.size(), 2U);
  EXPECT_EQ(proposed[0].second.step, 9 + desk.options().step_margin);
}

// A joiner is at no step: it has nothing to promise.
TEST(CoordinatorChange, ProposesToTheSourceAlone) {
  CoordinatorDesk desk = with_a_third();

  const auto proposed = sent<Propose>(desk.prepare({1, 2, 3}));

  ASSERT_EQ(proposed.size(), 2U);
  EXPECT_EQ(proposed[0].first, MemberId{1});
  EXPECT_EQ(proposed[1].first, MemberId{2});
}

// A member that is asked to switch at a step that another one has passed would wait for ever.
TEST(CoordinatorChange, NobodyGoesBeforeAllHavePromised) {
  CoordinatorDesk desk = with_a_proposal();

  EXPECT_TRUE(sent<Go>(desk.promise({1})).empty());
  EXPECT_EQ(sent<Go>(desk.promise({2})).size(), 3U);
}

TEST(CoordinatorChange, APromiseThatIsToldTwiceIsCountedOnce) {
  CoordinatorDesk desk = with_a_proposal();

  EXPECT_TRUE(sent<Go>(desk.promise({1, 1})).empty());
}

// What came too late with a margin of 2 gets 4, then 8: members that are fast are caught up with.
TEST(CoordinatorChange, ARefusedProposalIsFollowedByOneWithTwiceTheMargin) {
  CoordinatorDesk desk = with_a_proposal();

  const auto proposed = sent<Propose>(desk.give(Promise{{1}, 2, 1, false, 20}));

  ASSERT_EQ(proposed.size(), 2U);
  EXPECT_EQ(proposed[0].second.proposal, 2);
  EXPECT_EQ(proposed[0].second.step, 20 + 2 * desk.options().step_margin);
}

// A yes binds to its own step. Counted for the next one, it would let a member be asked to switch
// at a step that it has passed.
TEST(CoordinatorChange, APromiseToAnEarlierProposalIsNotCounted) {
  CoordinatorDesk desk = with_a_proposal();
  (void)desk.give(Promise{{1}, 2, 1, false, 20});
  (void)desk.promise({1}, 2);

  EXPECT_TRUE(sent<Go>(desk.promise({2}, 1)).empty());
  EXPECT_EQ(sent<Go>(desk.promise({2}, 2)).size(), 3U);
}

TEST(CoordinatorChange, IsAbortedAfterTooManyRefusals) {
  CoordinatorDesk desk = with_a_proposal();
  std::vector<CoordinatorAction> last;
  for (std::int64_t proposal = 1; proposal <= desk.options().max_proposals; ++proposal) {
    EXPECT_TRUE(sent<Decision>(last).empty());
    last = desk.give(Promise{{1}, 2, proposal, false, 20 * proposal});
  }

  EXPECT_EQ(persisted<AttemptAborted>(last).size(), 1U);
}

// Two yes of one member are one yes: the other one may still vote no.
TEST(CoordinatorChange, AVoteThatIsToldTwiceIsCountedOnce) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2});
  (void)desk.prepare({1, 2});

  EXPECT_TRUE(persisted<AttemptCommitted>(desk.vote({1, 1})).empty());
  EXPECT_EQ(persisted<AttemptCommitted>(desk.vote({2})).size(), 1U);
}

// A member may give up for any reason until it has voted yes.
TEST(CoordinatorChange, ANoAbortsBeforeAnybodyHasGone) {
  CoordinatorDesk desk = with_a_proposal();

  const auto told = sent<Decision>(desk.give(Vote{{1}, 2, false, "a step failed"}));

  ASSERT_EQ(told.size(), 3U);
  EXPECT_FALSE(told[0].second.is_commit);
}

TEST(CoordinatorChange, OneNoOutweighsAllOthers) {
  CoordinatorDesk desk = with_a_proposal();
  (void)desk.promise({1, 2});
  (void)desk.vote({1, 2});

  const auto actions = desk.give(Vote{{3}, 2, false, "a link broke"});

  EXPECT_EQ(persisted<AttemptAborted>(actions).size(), 1U);
  EXPECT_EQ(desk.durable().world.epoch, 1);
}

TEST(CoordinatorChange, AVoteInAnAttemptThatIsOverIsStale) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(PrepareFailed{{3}, 2, "no memory", false});
  const std::int64_t num_before = desk.status().num_stale;

  EXPECT_TRUE(desk.give(Vote{{1}, 2, true, {}}).empty());
  EXPECT_EQ(desk.status().num_stale, num_before + 1);
}

TEST(CoordinatorChange, AVoteOfOneWhoTakesNoPartIsStale) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.join({1, 2});
  (void)desk.give(Join{{3}, "host"});
  const std::int64_t num_before = desk.status().num_stale;

  (void)desk.give(Vote{{3}, 1, true, {}});

  EXPECT_EQ(desk.status().num_stale, num_before + 1);
}

// A member that cannot allocate its target costs the others nothing: they have not stopped.
TEST(CoordinatorChange, AFailedPreparationLeavesTheWorldAsItIs) {
  CoordinatorDesk desk = with_a_third();

  (void)desk.give(PrepareFailed{{3}, 2, "no memory", false});

  EXPECT_EQ(desk.durable().world.epoch, 1);
  EXPECT_FALSE(desk.durable().is_halted);
}

TEST(CoordinatorChange, ALostJoinerAbortsWithoutAHalt) {
  CoordinatorDesk desk = with_a_third();

  const auto actions = desk.give(ConnectionClosed{{3}});

  EXPECT_EQ(sent<Decision>(actions).size(), 2U);
  EXPECT_TRUE(sent<Halt>(actions).empty());
}

TEST(CoordinatorChange, PreparationHasADeadline) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2});

  const auto actions = desk.wait_with({1, 2, 3}, desk.deadlines().prepare_ms);

  ASSERT_EQ(persisted<AttemptAborted>(actions).size(), 1U);
  EXPECT_EQ(persisted<AttemptAborted>(actions)[0].why, "1 members have not prepared in time: 3");
}

TEST(CoordinatorChange, AProposalHasADeadline) {
  CoordinatorDesk desk = with_a_proposal();

  const auto actions = desk.wait_with({1, 2, 3}, desk.deadlines().promise_ms);

  EXPECT_EQ(persisted<AttemptAborted>(actions).size(), 1U);
}

TEST(CoordinatorChange, AVoteHasADeadline) {
  CoordinatorDesk desk = with_a_proposal();
  (void)desk.promise({1, 2});
  (void)desk.vote({1, 2});

  const auto actions = desk.wait_with({1, 2, 3}, desk.deadlines().vote_ms);

  EXPECT_EQ(persisted<AttemptAborted>(actions).size(), 1U);
}

/// Fails the open attempt, and returns for how long no other one is begun.
std::int64_t pause_after_a_failure(CoordinatorDesk& desk) {
  (void)desk.give(PrepareFailed{{3}, desk.published.attempt, "no memory", false});
  const std::int64_t begin_ms = desk.now_ms;
  for (int i = 0; i < 1000 && sent<Prepare>(desk.wait_with({1, 2, 3}, 250)).empty(); ++i) {
  }
  return desk.now_ms - begin_ms;
}

// What fails at once fails again at once: the pause keeps a broken host from taking all time.
TEST(CoordinatorChange, ThePauseDoublesWithEachFailureUpToItsCap) {
  CoordinatorDesk desk = with_a_third();

  EXPECT_EQ(pause_after_a_failure(desk), desk.deadlines().back_off_ms);
  EXPECT_EQ(pause_after_a_failure(desk), 2 * desk.deadlines().back_off_ms);
  for (int i = 0; i < 6; ++i) {
    (void)pause_after_a_failure(desk);
  }
  EXPECT_EQ(pause_after_a_failure(desk), desk.deadlines().back_off_cap_ms);
}

// Another set of members is another question.
TEST(CoordinatorChange, ANewMemberEndsThePause) {
  CoordinatorDesk desk = with_a_third();
  (void)pause_after_a_failure(desk);
  (void)desk.give(PrepareFailed{{3}, desk.published.attempt, "no memory", false});

  EXPECT_EQ(sent<Prepare>(desk.join({4})).size(), 3U);
}

// A rank that leaves must have handed over its shard before it is let go.
TEST(CoordinatorChange, OneWhoLeavesIsReleasedBehindTheCommit) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  EXPECT_TRUE(sent<Released>(desk.give(Leave{{2}, 30'000})).empty());
  (void)desk.wait(desk.deadlines().settle_ms);
  (void)desk.prepare({1, 2});
  (void)desk.promise({1, 2});

  const auto released = sent<Released>(desk.vote({1, 2}));

  ASSERT_EQ(released.size(), 1U);
  EXPECT_EQ(released[0].first, MemberId{2});
  EXPECT_EQ(desk.durable().world.members, std::vector<MemberId>{{1}});
}

TEST(CoordinatorChange, ADrainedMemberIsLeftOutAsOneThatLeaves) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Drain{{1}});

  (void)desk.wait(desk.deadlines().settle_ms);

  EXPECT_EQ(desk.published.target.members, std::vector<MemberId>{{2}});
}

// What a smaller world does not need stays as a spare for the next failure.
TEST(CoordinatorChange, OneWhoIsNotNeededStaysAsASpare) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Resize{"dp=1"});
  (void)desk.wait(desk.deadlines().settle_ms);
  (void)desk.prepare({1, 2});
  (void)desk.promise({1, 2});

  EXPECT_TRUE(sent<Released>(desk.vote({1, 2})).empty());
  EXPECT_EQ(desk.status().members.at(1).role, Role::kSpare);
}

}  // namespace
}  // namespace dynatrain::membership
