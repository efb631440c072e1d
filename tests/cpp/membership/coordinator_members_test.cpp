#include "dynatrain/base/error.hpp"

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

/// Members 1 and 2 train, 3 joins; nobody has been heard but by heartbeats.
CoordinatorDesk with_a_third() {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});
  return desk;
}

Heartbeat beat(std::uint64_t member, std::int64_t attempt, Stage stage) {
  Heartbeat message;
  message.id = {member};
  message.epoch = member == 3 ? 0 : 1;
  message.attempt = attempt;
  message.stage = stage;
  message.activity = member == 3 ? Activity::kIdle : Activity::kTraining;
  return message;
}

// A coordinator that forgets whom it has welcomed would refuse a member that trains.
TEST(CoordinatorMembers, AMemberIsOnDiskBeforeItIsWelcome) {
  CoordinatorDesk desk(two_or_one());

  EXPECT_TRUE((is_persisted_before_told<MemberJoined, Welcome>(desk.give(Join{{1}, "host"}))));
}

TEST(CoordinatorMembers, JoiningTwiceIsJoiningOnce) {
  CoordinatorDesk desk(two_or_one());
  (void)desk.give(Join{{1}, "host"});

  const auto actions = desk.give(Join{{1}, "host"});

  EXPECT_TRUE(persisted<MemberJoined>(actions).empty());
  EXPECT_EQ(sent<Welcome>(actions).size(), 1U);
}

// Its process ended before it was welcome.
TEST(CoordinatorMembers, OneThatHasNotJoinedMayGo) {
  CoordinatorDesk desk(two_or_one());

  EXPECT_EQ(sent<Refused>(desk.give(Gone{{9}, false})).size(), 1U);
}

TEST(CoordinatorMembers, ANameThatIsEmptyOrTooLongIsRefused) {
  CoordinatorDesk desk(two_or_one());

  EXPECT_EQ(sent<Refused>(desk.give(Join{{1}, ""})).size(), 1U);
  EXPECT_EQ(sent<Refused>(desk.give(Join{{1}, std::string(256, 'h')})).size(), 1U);
}

// Each world that it was asked into was refused by all, and nobody else could come in.
TEST(CoordinatorMembers, OneWithOtherSettingsIsRefusedWhereSomebodyIsThere) {
  CoordinatorDesk desk(two_or_one());
  EXPECT_EQ(sent<Welcome>(desk.give(Join{{1}, "host", "a 1\nb 2"})).size(), 1U);

  const auto refused = sent<Refused>(desk.give(Join{{2}, "host", "a 1\nb 3"}));

  ASSERT_EQ(refused.size(), 1U);
  EXPECT_NE(refused[0].second.why.find("\"b 3\", where they have \"b 2\""), std::string::npos);
  EXPECT_EQ(sent<Welcome>(desk.give(Join{{3}, "host", "a 1\nb 2"})).size(), 1U);
}

// It may hold a state of steps ago, and others may have taken its place.
TEST(CoordinatorMembers, TheLostDoNotComeBack) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(ConnectionClosed{{3}});

  const auto actions = desk.give(Join{{3}, "host"});

  EXPECT_TRUE(persisted<MemberJoined>(actions).empty());
  EXPECT_EQ(sent<Lost>(actions).size(), 1U);
}

TEST(CoordinatorMembers, AVoteOfTheLostIsAnsweredWithLost) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(ConnectionClosed{{3}});

  EXPECT_EQ(sent<Lost>(desk.give(Vote{{3}, 2, true, {}})).size(), 1U);
}

TEST(CoordinatorMembers, SilenceOfLostAfterIsALoss) {
  CoordinatorDesk desk = with_a_third();

  EXPECT_TRUE(
      persisted<MemberLost>(desk.wait_with({1, 2}, desk.deadlines().lost_after_ms - 600)).empty());
  const auto lost = persisted<MemberLost>(desk.wait_with({1, 2}, 600));

  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(lost[0].id, MemberId{3});
}

// It is cut off itself: the members train on, and would all end when they hear that they are lost.
TEST(CoordinatorMembers, WhoHearsNobodyLosesNobody) {
  CoordinatorDesk desk = with_a_third();

  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(persisted<MemberLost>(desk.wait(desk.deadlines().lost_after_ms)).empty());
  }
}

// TCP says again what was lost after as long as the link was away, for each member at another time.
TEST(CoordinatorMembers, BehindASilenceOfAllEachHasAsMuchTimeToBeHeard) {
  CoordinatorDesk desk = with_a_third();
  const std::int64_t lost_after_ms = desk.deadlines().lost_after_ms;
  (void)desk.wait(5 * lost_after_ms);

  EXPECT_TRUE(persisted<MemberLost>(desk.wait_with({1}, 0)).empty());
  for (int i = 0; i < 11; ++i) {
    EXPECT_TRUE(persisted<MemberLost>(desk.wait_with({1, 2}, lost_after_ms / 2)).empty());
  }
  (void)desk.wait_with({1, 2}, lost_after_ms / 2);
  (void)desk.wait_with({1, 2}, lost_after_ms / 2);

  EXPECT_EQ(sent<Lost>(desk.give(beat(3, 0, Stage::kNone))).size(), 1U);  // not heard meanwhile
}

TEST(CoordinatorMembers, ASpareThatIsLostHaltsNobody) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Join{{3}, "host"});

  EXPECT_TRUE(sent<Halt>(desk.give(ConnectionClosed{{3}})).empty());
}

// A worker judges by the answers whether the coordinator lives.
TEST(CoordinatorMembers, EveryHeartbeatIsAnswered) {
  CoordinatorDesk desk = with_a_third();

  EXPECT_EQ(sent<Heard>(desk.give(beat(1, 2, Stage::kNone))).size(), 1U);
}

// ---- repair: each message is lost once, and the next heartbeat makes up for it -----------------

TEST(CoordinatorRepair, AMemberThatHasNotHeardPrepareIsAskedAgain) {
  CoordinatorDesk desk = with_a_third();

  EXPECT_EQ(sent<Prepare>(desk.give(beat(3, 0, Stage::kNone))).size(), 1U);
}

TEST(CoordinatorRepair, AHeartbeatCountsAsTheAnswersThatItTells) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.give(beat(1, 2, Stage::kPrepared));
  (void)desk.give(beat(2, 2, Stage::kPrepared));

  EXPECT_EQ(sent<Propose>(desk.give(beat(3, 2, Stage::kPrepared))).size(), 2U);
}

TEST(CoordinatorRepair, AMemberThatHasNotHeardTheProposalIsAskedAgain) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2, 3});

  EXPECT_EQ(sent<Propose>(desk.give(beat(1, 2, Stage::kPrepared))).size(), 1U);
}

TEST(CoordinatorRepair, AMemberThatHasNotHeardGoIsToldAgain) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2, 3});
  (void)desk.promise({1, 2});
  Heartbeat message = beat(1, 2, Stage::kPromised);
  message.proposal = 1;

  EXPECT_EQ(sent<Go>(desk.give(message)).size(), 1U);
}

TEST(CoordinatorRepair, AVoteIsTakenFromAHeartbeat) {
  CoordinatorDesk desk = with_a_third();
  (void)desk.prepare({1, 2, 3});
  (void)desk.promise({1, 2});
  (void)desk.vote({1, 2});

  EXPECT_EQ(persisted<AttemptCommitted>(desk.give(beat(3, 2, Stage::kVoted))).size(), 1U);
}

// Its no was lost: that it takes part no more says the same.
TEST(CoordinatorRepair, AMemberThatHasGivenUpAborts) {
  CoordinatorDesk desk = with_a_third();
  Heartbeat message = beat(3, 0, Stage::kNone);
  message.closed_attempt = 2;

  EXPECT_EQ(persisted<AttemptAborted>(desk.give(message)).size(), 1U);
}

TEST(CoordinatorRepair, AMemberThatHasNotHeardHaltIsToldAgain) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(StepFailed{{1}, 1, {}});

  EXPECT_EQ(sent<Halt>(desk.give(beat(2, 0, Stage::kNone))).size(), 1U);
}

TEST(CoordinatorRepair, ABrokenStepIsTakenFromAHeartbeat) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  Heartbeat message = beat(2, 0, Stage::kNone);
  message.activity = Activity::kBroken;

  EXPECT_EQ(persisted<WorldHalted>(desk.give(message)).size(), 1U);
}

TEST(CoordinatorRepair, ALeaveIsTakenFromAHeartbeat) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  Heartbeat message = beat(2, 0, Stage::kNone);
  message.is_leaving = true;

  EXPECT_EQ(persisted<MemberLeaves>(desk.give(message)).size(), 1U);
}

// ---- the end of the job ------------------------------------------------------------------------

// The others do their last step: to halt them for one that is done would train it again.
TEST(CoordinatorFinish, TheFirstThatIsDoneHaltsNobody) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});

  const auto actions = desk.give(Gone{{1}, true});

  EXPECT_EQ(persisted<JobFinished>(actions).size(), 1U);
  EXPECT_TRUE(sent<Halt>(actions).empty());
}

TEST(CoordinatorFinish, SparesAreReleased) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Join{{3}, "host"});

  const auto released = sent<Released>(desk.give(Gone{{1}, true}));

  ASSERT_EQ(released.size(), 2U);
  EXPECT_EQ(released[1].first, MemberId{3});
}

TEST(CoordinatorFinish, NobodyJoinsAJobThatHasFinished) {
  CoordinatorDesk desk(two_or_one());
  desk.make_world({1, 2});
  (void)desk.give(Gone{{1}, true});

  const auto refused = sent<Refused>(desk.give(Join{{4}, "host"}));
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_TRUE(refused[0].second.is_over);
}

// ---- options -----------------------------------------------------------------------------------

TEST(CoordinatorOptions, WithoutAPolicyAreRefused) {
  EXPECT_THROW(Coordinator(CoordinatorOptions{}, {}, 0), LayoutError);
}

TEST(CoordinatorOptions, WithoutAMarginAreRefused) {
  CoordinatorOptions options = CoordinatorDesk(two_or_one()).options();
  options.step_margin = 0;

  EXPECT_THROW(Coordinator(options, {}, 0), LayoutError);
}

// The margin doubles with each: more would leave 64 bits.
TEST(CoordinatorOptions, WithMoreThan30ProposalsAreRefused) {
  CoordinatorOptions options = CoordinatorDesk(two_or_one()).options();
  options.max_proposals = 31;

  EXPECT_THROW(Coordinator(options, {}, 0), LayoutError);
}

}  // namespace
}  // namespace dynatrain::membership
