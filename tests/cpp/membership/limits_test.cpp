#include "dynatrain/membership/text.hpp"

#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"
#include "membership/worker_desk.hpp"
#include <limits>

namespace dynatrain::membership {
namespace {

using testing::CoordinatorDesk;
using testing::told;
using testing::up_to_three;
using testing::WorkerDesk;

/// `count` characters of two bytes each.
std::string umlauts(std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += "ö";
  }
  return text;
}

// Python raises on half a character, and whoever reads such a text there goes with it.
TEST(Limits, TheReasonOfAMemberEndsWithAWholeCharacter) {
  WorkerDesk desk;
  desk.begin_world();
  (void)desk.give(AtBoundary{1});
  (void)desk.hear(Prepare{2, ChangeKind::kPlanned, 1, true, 2, 0});

  const auto failed =
      told<PrepareFailed>(desk.give(PrepareBroke{2, "x" + umlauts(500), false, false}));

  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed.front().why, "x" + umlauts(499));
}

// An operator's question and a script's policy both read the status.
TEST(Limits, TheLastFailureEndsWithAWholeCharacter) {
  CoordinatorDesk desk(up_to_three());
  desk.make_world({1, 2});
  (void)desk.join({3});
  const std::string before = "member 3 cannot prepare: ";
  ASSERT_EQ(before.size() % 2, 1U);

  (void)desk.give(PrepareFailed{{3}, desk.published.attempt, umlauts(500), false});

  EXPECT_EQ(desk.status().last_failure, before + umlauts((kMaxWhyBytes - before.size()) / 2));
}

TEST(Limits, AReasonThatFitsStaysWhole) {
  WorkerDesk desk;
  desk.begin_world();
  (void)desk.give(AtBoundary{1});
  (void)desk.hear(Prepare{2, ChangeKind::kPlanned, 1, true, 2, 0});

  const auto failed = told<PrepareFailed>(desk.give(PrepareBroke{2, umlauts(500), false, false}));

  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed.front().why, umlauts(500));
}

// What a machine asks for is written as text: where that is refused, all that it asked for is lost.
TEST(Limits, AGraceOfAnyLengthTravels) {
  for (const std::int64_t grace_ms :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}) {
    WorkerDesk desk;
    desk.begin_world();
    for (const WorkerAction& action : desk.give(LeaveWanted{grace_ms})) {
      EXPECT_NO_THROW((void)encode(action));
    }
  }
}

// An operator who asks why nothing happens finds it in the status.
TEST(Limits, AWishThatIsTooLongIsCounted) {
  CoordinatorDesk desk(up_to_three());

  (void)desk.give(Resize{std::string(kMaxLayoutBytes + 1, 'x')});

  EXPECT_EQ(desk.status().num_stale, 1);
}

}  // namespace
}  // namespace dynatrain::membership
