#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"
#include <iterator>
#include <utility>
#include <vector>

/// Members that have left the world with copies of its state, which it may need.
namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::persisted;
using testing::sent;
using testing::up_to_three;

Heartbeat beat(std::uint64_t member, std::int64_t epoch, std::int64_t copies, bool is_copied) {
  Heartbeat beat;
  beat.id = {member};
  beat.epoch = epoch;
  beat.activity = epoch == 0 ? Activity::kIdle : Activity::kTraining;
  beat.copies = copies;
  beat.is_copied = is_copied;
  return beat;
}

/// Three have trained, with snapshots; the third one is in the world of the other two no more.
CoordinatorDesk shrunk(const CoordinatorEvent& why) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});
  for (const std::uint64_t member : {1U, 2U, 3U}) {
    (void)desk.give(beat(member, 1, 1, true));
  }
  (void)desk.give(why);
  (void)desk.wait_with({1, 2, 3}, desk.deadlines().settle_ms);
  (void)desk.prepare({1, 2, 3}, 7);
  (void)desk.promise({1, 2, 3});
  (void)desk.vote({1, 2, 3});
  return desk;
}
CoordinatorDesk resized() {
  return shrunk(Resize{"dp=2"});
}

Report copies_of(std::uint64_t member, std::vector<std::int64_t> versions) {
  return Report{{member}, 2, 0, false, std::move(versions)};
}

// The shard of the one that idles was called gone, and it lay there.
TEST(CoordinatorFormer, WhoHasLeftWithCopiesIsAskedForThem) {
  CoordinatorDesk desk = resized();

  const auto halts = sent<Halt>(desk.give(ConnectionClosed{{2}}));

  ASSERT_EQ(halts.size(), 2U);
  EXPECT_EQ(halts[0].first, MemberId{1});
  EXPECT_EQ(halts[1].first, MemberId{3});
  EXPECT_EQ(halts[1].second.epoch, 2);
}

TEST(CoordinatorFormer, WhoHasAPlaceBringsItsCopiesThere) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(copies_of(1, {6}));

  (void)desk.give(copies_of(3, {6}));

  EXPECT_EQ(desk.published.target.members, (std::vector<MemberId>{{1}, {3}}));
  EXPECT_EQ(desk.published.holdings,
            (std::vector<Holding>{Holding::kSnapshot, Holding::kAbsent, Holding::kSnapshot}));
  EXPECT_TRUE(desk.published.former.empty());
}

// It is to leave, so it gets no place; but what it has is needed.
TEST(CoordinatorFormer, WhoLeavesTakesPartForItsCopiesAlone) {
  CoordinatorDesk desk = shrunk(Drain{{3}});
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(copies_of(1, {6}));

  const auto asked = sent<Prepare>(desk.give(copies_of(3, {6})));

  EXPECT_EQ(desk.published.target.members, (std::vector<MemberId>{{1}}));
  EXPECT_EQ(desk.published.former, (std::vector<MemberId>{{3}}));
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[1].first, MemberId{3});
  EXPECT_FALSE(asked[1].second.is_source);
  EXPECT_EQ(asked[1].second.target_rank, -1);
}

TEST(CoordinatorFormer, WhoLeavesIsReleasedWhenTheNewWorldHasCopied) {
  CoordinatorDesk desk = shrunk(Drain{{3}});
  EXPECT_TRUE(sent<Released>(desk.give(beat(3, 0, 2, false))).empty());
  EXPECT_TRUE(sent<Released>(desk.give(beat(1, 2, 2, false))).empty());

  EXPECT_EQ(sent<Released>(desk.give(beat(2, 2, 2, true))).size(), 1U);
}

// Copies that fail must not hold a host that is to be given back.
TEST(CoordinatorFormer, WhoLeavesIsReleasedAfterAWhileInAnyCase) {
  CoordinatorDesk desk = shrunk(Drain{{3}});
  const std::int64_t step_ms = desk.deadlines().lost_after_ms - 1;
  std::int64_t waited_ms = 0;
  for (; waited_ms + step_ms < desk.deadlines().keep_ms; waited_ms += step_ms) {
    ASSERT_TRUE(sent<Released>(desk.wait_with({1, 2, 3}, step_ms)).empty());
  }

  const auto actions = desk.wait_with({1, 2, 3}, desk.deadlines().keep_ms - waited_ms);

  EXPECT_EQ(persisted<MemberReleased>(actions).size(), 1U);
}

// Its grace is over before: it is no loss, and nothing of the world is to be halted.
TEST(CoordinatorFormer, WhoLeavesAndEndsIsReleased) {
  CoordinatorDesk desk = shrunk(Drain{{3}});

  const auto actions = desk.give(Gone{{3}, false});

  EXPECT_EQ(persisted<MemberReleased>(actions).size(), 1U);
  EXPECT_TRUE(persisted<MemberLost>(actions).empty());
}

TEST(CoordinatorFormer, WithoutCopiesNobodyStays) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2, 3});
  (void)desk.give(Drain{{3}});
  (void)desk.wait_with({1, 2, 3}, desk.deadlines().settle_ms);
  (void)desk.prepare({1, 2, 3}, 7);
  (void)desk.promise({1, 2, 3});

  EXPECT_EQ(sent<Released>(desk.vote({1, 2, 3})).size(), 1U);
}

// Memory of a host that does nothing: the copies are older than those of the new world.
TEST(CoordinatorFormer, CopiesAreForgottenWhenTheNewWorldHasItsOwn) {
  CoordinatorDesk desk = resized();
  EXPECT_TRUE(sent<Forget>(desk.give(beat(3, 0, 2, false))).empty());
  (void)desk.give(beat(1, 2, 2, true));

  const auto forgets = sent<Forget>(desk.give(beat(3, 0, 2, false)));

  ASSERT_EQ(forgets.size(), 1U);
  EXPECT_EQ(forgets[0].second.epoch, 3);
  EXPECT_EQ(sent<Halt>(desk.give(ConnectionClosed{{2}})).size(), 1U);
}

// What was sent before the commit knows less.
TEST(CoordinatorFormer, AHeartbeatThatIsLateChangesNothing) {
  CoordinatorDesk desk = resized();

  EXPECT_TRUE(sent<Forget>(desk.give(beat(3, 1, 1, true))).empty());

  EXPECT_EQ(sent<Halt>(desk.give(ConnectionClosed{{2}})).size(), 2U);
}

// Copies of a version that was gone back behind are of steps that were undone.
TEST(CoordinatorFormer, AfterARecoveryOnlyThoseWhoTookPartAreAsked) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(copies_of(1, {6}));
  (void)desk.give(copies_of(3, {}));
  (void)desk.prepare({1, 3});
  (void)desk.vote({1, 3});
  (void)desk.come(4);

  EXPECT_TRUE(sent<Forget>(desk.give(beat(1, 3, 3, false))).empty());
  EXPECT_EQ(sent<Forget>(desk.give(beat(4, 0, 2, false))).size(), 1U);
}

// A new coordinator learns of copies by heartbeats; who has them may be the only one who helps.
TEST(CoordinatorFormer, ANewCoordinatorAsksWhenItHasHeardAll) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{2}});
  desk.restart();
  (void)desk.give(beat(1, 2, 2, false));
  EXPECT_TRUE(sent<Prepare>(desk.give(copies_of(1, {6}))).empty());

  const auto halts = sent<Halt>(desk.give(beat(3, 0, 2, false)));

  ASSERT_EQ(halts.size(), 2U);
  EXPECT_EQ(halts[1].first, MemberId{3});
}

// Nobody of the world lives, and those who idle have all of it.
TEST(CoordinatorFormer, CopiesAreTakenWhereNobodyElseIsLeft) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{1}});
  (void)desk.give(ConnectionClosed{{2}});

  (void)desk.give(copies_of(3, {6}));
  (void)desk.wait_with({3}, desk.deadlines().settle_ms);

  EXPECT_EQ(desk.published.target.version, 6);
  EXPECT_EQ(desk.published.target.members, (std::vector<MemberId>{{3}}));
}

// A world of one makes no snapshots: what it has left on disk is newer than the copies of the
// others, and a recovery from these would have it removed.
TEST(CoordinatorFormer, WhatIsOnDiskIsTakenBeforeCopiesThatAreOlder) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{1}});
  const auto searches = sent<Search>(desk.give(ConnectionClosed{{2}}));
  ASSERT_EQ(searches.size(), 1U);
  EXPECT_LE(searches[0].second.copies_since, 2);  // its copies count, too

  (void)desk.give(copies_of(3, {900, 6}));
  (void)desk.wait_with({3}, desk.deadlines().settle_ms);

  EXPECT_EQ(desk.published.target.version, 900);
}

// It will hear of the switch, and that it is let go, from the next coordinator.
TEST(CoordinatorFormer, ANewCoordinatorReleasesNobodyItHasNotHeard) {
  CoordinatorDesk desk = shrunk(Drain{{3}});
  desk.restart();
  EXPECT_TRUE(sent<Released>(desk.wait(1)).empty());
  EXPECT_TRUE(sent<Released>(desk.give(beat(3, 0, 2, false))).empty());

  desk.restart();
  EXPECT_EQ(sent<Released>(desk.give(beat(3, 0, 0, false))).size(), 1U);
}

// The recovery waited for its report up to the deadline, and then it was lost.
TEST(CoordinatorFormer, WhoHasLetGoOfItsCopiesIsNotWaitedFor) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(copies_of(1, {6}));

  (void)desk.give(beat(3, 0, 0, false));

  EXPECT_EQ(desk.published.kind, ChangeKind::kRecovery);
}

TEST(CoordinatorFormer, ALostOneIsNotWaitedFor) {
  CoordinatorDesk desk = resized();
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(copies_of(1, {6}));

  (void)desk.give(ConnectionClosed{{3}});

  EXPECT_EQ(desk.published.kind, ChangeKind::kRecovery);
  EXPECT_EQ(desk.published.target.members, (std::vector<MemberId>{{1}}));
}

// Too few are left for a world; somebody may come.
TEST(CoordinatorFormer, WhoLeavesInAHaltIsReleasedAfterAWhile) {
  CoordinatorDesk desk({{"dp=3", 3}, {"dp=2", 2}});
  desk.make_world({1, 2, 3});
  for (const std::uint64_t member : {1U, 2U, 3U}) {
    (void)desk.give(beat(member, 1, 1, true));
  }
  (void)desk.give(Drain{{3}});
  (void)desk.wait_with({1, 2, 3}, desk.deadlines().settle_ms);
  (void)desk.prepare({1, 2, 3}, 7);
  (void)desk.promise({1, 2, 3});
  (void)desk.vote({1, 2, 3});
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.give(copies_of(1, {6}));
  (void)desk.give(copies_of(3, {6}));
  for (std::int64_t waited_ms = 4000; waited_ms < desk.deadlines().keep_ms; waited_ms += 4000) {
    ASSERT_TRUE(persisted<MemberReleased>(desk.wait_with({1, 3}, 4000)).empty()) << waited_ms;
  }

  EXPECT_EQ(persisted<MemberReleased>(desk.wait_with({1, 3}, 4000)).size(), 1U);
}

// What the versions before were gone for is of no matter: they wait for members, and may have them.
TEST(CoordinatorFormer, AStateThatIsFoundAgainIsNotGone) {
  CoordinatorDesk desk({{"dp=3", 3}, {"dp=2", 2}});
  desk.make_world({1, 2});
  (void)desk.come(3);
  (void)desk.come(4);
  (void)desk.give(ConnectionClosed{{1}});
  (void)desk.give(ConnectionClosed{{2}});
  (void)desk.find(3);
  (void)desk.find(4);
  (void)desk.wait_with({3, 4}, desk.deadlines().settle_ms);
  EXPECT_EQ(sent<Search>(desk.wait_with({3, 4}, desk.deadlines().back_off_ms)).size(), 2U);
  (void)desk.find(3, {15});
  (void)desk.give(ConnectionClosed{{4}});
  (void)desk.wait_with({3}, desk.deadlines().settle_ms);

  const auto holds = sent<Holds>(desk.give(beat(3, 0, 0, false)));

  ASSERT_EQ(holds.size(), 1U) << desk.status().waits_for << desk.status().seconds_left;
  EXPECT_FALSE(holds[0].second.is_gone) << holds[0].second.why;
}

// It has answered nothing yet: that nothing is found is not known.
TEST(CoordinatorFormer, WhereTheLastOfAWorldIsLateOthersAreAskedFirst) {
  CoordinatorDesk desk({{"dp=3", 3}, {"dp=2", 2}, {"dp=1", 1}});
  desk.make_world({1});
  (void)desk.come(2);
  (void)desk.give(StepFailed{{1}, 1, {}});
  std::vector<std::pair<MemberId, Holds>> holds;
  for (std::int64_t waited_ms = 0; waited_ms <= desk.deadlines().report_ms; waited_ms += 4000) {
    (void)desk.wait_with({1, 2}, 4000);
    for (const auto& each : sent<Holds>(desk.give(beat(2, 0, 0, false)))) {
      holds.push_back(each);
    }
  }
  ASSERT_EQ(desk.status().num_lost, 1);
  for (const auto& [to, each] : sent<Holds>(desk.give(beat(2, 0, 0, false)))) {
    EXPECT_FALSE(each.is_gone) << each.why;
  }
}

}  // namespace
}  // namespace dynatrain::membership
