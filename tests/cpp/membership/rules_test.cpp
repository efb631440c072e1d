// Deadlines, the default policy, and the ledger.

#include "dynatrain/base/error.hpp"
#include "dynatrain/membership/deadlines.hpp"
#include "dynatrain/membership/ledger.hpp"
#include "dynatrain/membership/policy.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace dynatrain::membership {
namespace {

std::string refusal_of(const Deadlines& deadlines) {
  try {
    check_deadlines(deadlines);
  } catch (const LayoutError& error) {
    return error.what();
  }
  return "";
}

// ---- deadlines ---------------------------------------------------------------------------------

// Rounding must not turn round what the rules ask for.
TEST(Deadlines, OfEveryTimeoutAreInOrder) {
  for (std::int64_t timeout_ms = 1200; timeout_ms < 10'000; ++timeout_ms) {
    ASSERT_EQ(refusal_of(make_deadlines(timeout_ms)), "") << timeout_ms;
  }
  EXPECT_EQ(refusal_of(make_deadlines(24LL * 3600 * 1000)), "");
}

TEST(Deadlines, OfTheDefaultLoseAMemberAfterFiveSeconds) {
  EXPECT_EQ(make_deadlines().lost_after_ms, 5000);
}

TEST(Deadlines, OfLessThan1200MsOrMoreThanADayAreRefused) {
  EXPECT_THROW((void)make_deadlines(1199), LayoutError);
  EXPECT_THROW((void)make_deadlines(24LL * 3600 * 1000 + 1), LayoutError);
}

// A member that ends undecided while the vote still runs may end although all is well.
TEST(Deadlines, ADecisionThatIsNotWaitedForLongerThanTheVoteIsRefused) {
  Deadlines deadlines = make_deadlines();
  deadlines.decision_ms = deadlines.vote_ms;

  EXPECT_NE(refusal_of(deadlines).find("decision_ms"), std::string::npos);
  EXPECT_NE(refusal_of(deadlines).find("vote_ms must be less"), std::string::npos);
}

TEST(Deadlines, FewerThanThreeHeartbeatsBeforeALossAreRefused) {
  Deadlines deadlines = make_deadlines();
  deadlines.heartbeat_ms = deadlines.lost_after_ms / 3 + 1;

  EXPECT_NE(refusal_of(deadlines).find("3 * heartbeat_ms"), std::string::npos);
}

TEST(Deadlines, ZeroAndLessIsRefused) {
  Deadlines deadlines = make_deadlines();
  deadlines.tick_ms = 0;

  EXPECT_NE(refusal_of(deadlines).find("tick_ms=0"), std::string::npos);
}

// The time plus such a deadline would wrap around, and be over at once.
TEST(Deadlines, OfMoreThanTenDaysAreRefused) {
  const std::int64_t endless = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t Deadlines::* const one :
       {&Deadlines::settle_ms, &Deadlines::abandon_ms, &Deadlines::back_off_cap_ms}) {
    Deadlines deadlines = make_deadlines();
    deadlines.*one = endless;

    EXPECT_NE(refusal_of(deadlines).find("_ms=" + std::to_string(endless)), std::string::npos);
  }
}

TEST(Deadlines, APauseAboveItsCapIsRefused) {
  Deadlines deadlines = make_deadlines();
  deadlines.back_off_ms = deadlines.back_off_cap_ms + 1;

  EXPECT_NE(refusal_of(deadlines).find("back_off_cap_ms"), std::string::npos);
}

// ---- policy ------------------------------------------------------------------------------------

const std::vector<LayoutChoice> kLayouts{{"dp=4", 4}, {"tp=2", 2}, {"dp=2", 2}};

PolicyChoice choose(const PolicyInput& input) {
  return first_that_fits(kLayouts)(input);
}

TEST(Policy, TakesTheFirstLayoutThatFits) {
  EXPECT_EQ(choose({{{1}, {2}, {3}, {4}}, {}, {}}).layout, "dp=4");
  EXPECT_EQ(choose({{{1}, {2}, {3}}, {}, {}}).layout, "tp=2");
}

// Whoever stays at its rank moves least.
TEST(Policy, KeepsThoseOfTheWorldInTheirOrder) {
  const World present{1, "dp=4", {{3}, {1}, {9}, {2}}, 0};

  const PolicyChoice choice = choose({{{1}, {2}, {3}, {4}, {5}}, present, {}});

  EXPECT_EQ(choice.members, (std::vector<MemberId>{{3}, {1}, {2}, {4}}));
}

TEST(Policy, FillsUpInTheOrderOfJoining) {
  EXPECT_EQ(choose({{{7}, {3}, {5}}, {}, {}}).members, (std::vector<MemberId>{{7}, {3}}));
}

TEST(Policy, PrefersTheWishWhereItFits) {
  EXPECT_EQ(choose({{{1}, {2}, {3}, {4}}, {}, "dp=2"}).layout, "dp=2");
}

TEST(Policy, SaysWhyTheWishIsNotFollowed) {
  EXPECT_EQ(choose({{{1}, {2}}, {}, "dp=4"}).why,
            "the wished layout 'dp=4' needs 4 members, 2 are available");
  EXPECT_EQ(choose({{{1}, {2}}, {}, "dp=9"}).why,
            "the wished layout 'dp=9' is not in the list of layouts");
}

// The script may know layouts that whoever started the coordinator did not think of.
TEST(Policy, TakesWhatTheScriptAdvisesBehindTheWish) {
  const Advice advice{1, "dp=3", 3, {}};

  EXPECT_EQ(choose({{{1}, {2}, {3}, {4}}, {}, {}, advice}).layout, "dp=3");
  EXPECT_EQ(choose({{{1}, {2}, {3}, {4}}, {}, "dp=4", advice}).layout, "dp=4");
  EXPECT_EQ(choose({{{1}, {2}, {3}}, {}, "dp=4", advice}).layout, "dp=3");
}

TEST(Policy, WaitsWhereTheScriptDoes) {
  const PolicyChoice choice = choose({{{1}, {2}}, {}, {}, Advice{1, {}, 0, {}}});

  EXPECT_TRUE(choice.members.empty());
  EXPECT_EQ(choice.why, "the script's policy waits for others to come or go");
}

// A mistake in it must not stop the job, nor stay unknown.
TEST(Policy, GoesOnWithoutAScriptThatFailedOrAsksForTooMuch) {
  const PolicyChoice failed = choose({{{1}, {2}}, {}, {}, Advice{1, {}, 0, "KeyError"}});
  const PolicyChoice large = choose({{{1}, {2}}, {}, {}, Advice{1, "dp=3", 3, {}}});

  EXPECT_EQ(failed.layout, "tp=2");
  EXPECT_EQ(failed.why, "the script's policy failed: KeyError");
  EXPECT_EQ(large.layout, "tp=2");
  EXPECT_EQ(large.why, "the script's layout 'dp=3' needs 3 members, 2 are available");
}

TEST(Policy, ChoosesNobodyWhereNoLayoutFits) {
  const PolicyChoice choice = choose({{{1}}, {}, {}});

  EXPECT_TRUE(choice.members.empty());
  EXPECT_EQ(choice.why, "1 members are available, the smallest layout needs 2");
}

TEST(Policy, OfABadListIsRefused) {
  EXPECT_THROW((void)first_that_fits({}), LayoutError);
  EXPECT_THROW((void)first_that_fits({{"a", 1}, {"a", 2}}), LayoutError);
  EXPECT_THROW((void)first_that_fits({{"a", 0}}), LayoutError);
}

// ---- ledger ------------------------------------------------------------------------------------

const std::vector<Record> kLedger{MemberJoined{{1}, "a"},
                                  MemberJoined{{2}, "b"},
                                  AttemptBegun{1},
                                  AttemptCommitted{1, World{1, "dp=2", {{1}, {2}}, 0}}};

TEST(Ledger, IsTheSumOfItsRecords) {
  const DurableState state = replay_ledger(kLedger);

  EXPECT_EQ(state.world.epoch, 1);
  EXPECT_EQ(state.members.at({2}).host, "b");
  EXPECT_EQ(state.last_attempt, 1);
  EXPECT_FALSE(state.is_attempt_open);
}

TEST(Ledger, ACommitEndsAHalt) {
  DurableState state = replay_ledger(kLedger);
  add_record(state, WorldHalted{1, "a step failed"});
  add_record(state, AttemptBegun{2});
  EXPECT_TRUE(state.is_halted);

  add_record(state, AttemptCommitted{2, World{2, "dp=1", {{1}}, 3}});

  EXPECT_FALSE(state.is_halted);
}

// A ledger that is no ledger must not become a world: every rule is its own record here.
TEST(Ledger, ARecordThatCannotFollowIsRefusedAndChangesNothing) {
  DurableState state = replay_ledger(kLedger);
  add_record(state, MemberLost{{2}, "gone"});
  add_record(state, AttemptBegun{2});
  const DurableState before = state;
  const std::vector<Record> hostile{MemberJoined{{1}, "a"},
                                    MemberJoined{{2}, "a lost one"},
                                    MemberJoined{{0}, "nobody"},
                                    MemberLeaves{{3}},
                                    MemberLost{{2}, "twice"},
                                    MemberReleased{{2}},
                                    AttemptBegun{3},
                                    AttemptBegun{2},
                                    AttemptAborted{1, "over"},
                                    AttemptCommitted{1, World{2, "dp=1", {{1}}, 0}},
                                    AttemptCommitted{2, World{3, "dp=1", {{1}}, 0}},
                                    AttemptCommitted{2, World{2, "dp=1", {{2}}, 0}},
                                    AttemptCommitted{2, World{2, "dp=2", {{1}, {1}}, 0}},
                                    AttemptCommitted{2, World{2, "dp=0", {}, 0}},
                                    WorldHalted{2, "of another epoch"},
                                    JobFinished{2}};
  for (std::size_t i = 0; i < hostile.size(); ++i) {
    EXPECT_THROW(add_record(state, hostile[i]), LayoutError) << "record " << i;
    EXPECT_EQ(state, before) << "record " << i;
  }
}

TEST(Ledger, TheRefusalNamesTheRecord) {
  std::vector<Record> records = kLedger;
  records.emplace_back(AttemptAborted{1, "over"});
  try {
    (void)replay_ledger(records);
    FAIL() << "it was taken";
  } catch (const LayoutError& error) {
    EXPECT_NE(std::string(error.what()).find("record 4 of the ledger"), std::string::npos);
  }
}

}  // namespace
}  // namespace dynatrain::membership
