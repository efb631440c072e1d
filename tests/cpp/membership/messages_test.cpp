// How many messages each member sends and receives for one event. Heartbeats go by time, and are
// not counted.

#include <gtest/gtest.h>

#include "membership/crowd.hpp"
#include <string>

namespace dynatrain::membership {
namespace {

using testing::Crowd;

/// A crowd of `size` members, and room for `spare` fewer.
Crowd crowd_of(int size, int spare) {
  Crowd crowd({{"all", size}, {"fewer", size - spare}},
              [](Coordinator& machine, std::int64_t now_ms, const CoordinatorEvent& event) {
                return machine.handle(now_ms, event);
              });
  for (int i = 0; i < size - spare; ++i) {
    crowd.add_member();
  }
  return crowd;
}

struct Counts {
  std::int64_t begin = 0;
  std::int64_t grow = 0;
  std::int64_t shrink = 0;
  std::int64_t recover = 0;
  std::int64_t num_published = 0;

  friend bool operator==(const Counts&, const Counts&) = default;
};

std::int64_t take_count(Crowd& crowd) {
  const std::int64_t most = crowd.most_messages();
  crowd.count_anew();
  return most;
}

/// The messages of the member that has most, for each event of a job's life.
Counts counts_of(int size, int spare) {
  Crowd crowd = crowd_of(size, spare);
  Counts counts;
  EXPECT_TRUE(crowd.reach(1));
  counts.begin = take_count(crowd);
  for (int i = 0; i < spare; ++i) {
    crowd.add_member();
  }
  EXPECT_TRUE(crowd.reach(2));
  counts.num_published = crowd.num_published();
  counts.grow = take_count(crowd);
  for (int i = 0; i < spare; ++i) {
    crowd.leave(static_cast<std::size_t>(i));
  }
  EXPECT_TRUE(crowd.reach(3));
  counts.shrink = take_count(crowd);
  for (int i = 0; i < spare; ++i) {
    crowd.add_member();
  }
  EXPECT_TRUE(crowd.reach(4));
  (void)take_count(crowd);
  crowd.kill(crowd.size() - 1);
  EXPECT_TRUE(crowd.reach(5));
  counts.recover = take_count(crowd);
  return counts;
}

// A rank that talks to all others takes seconds at a thousand ranks.
TEST(Messages, OfAMemberDoNotGrowWithTheWorld) {
  EXPECT_EQ(counts_of(1024, 24), counts_of(8, 2));
}

// Two for each of join, search (in the first world), prepare, propose, go and decide. One that
// joins has no proposal. One that leaves installs nothing, and is not counted behind Leave and
// Released: 4 * 2 - 1 + 2. A recovery has Halt and Report in place of a proposal.
TEST(Messages, OfAMemberAreThoseOfTheStraightWay) {
  EXPECT_EQ(counts_of(1024, 24),
            (Counts{.begin = 10, .grow = 8, .shrink = 9, .recover = 8, .num_published = 1}));
}

}  // namespace
}  // namespace dynatrain::membership
