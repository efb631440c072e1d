// Runs in virtual time, against sums by hand and against what no run can beat.

#include "dynatrain/schedule/virtual_run.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include "schedule/random_schedules.hpp"
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// 10 bytes a second within a node and 5 between nodes, copies at 20, a second of latency.
Topology slow_links() {
  return {.link_bytes_per_second = 5,
          .node_link_bytes_per_second = 10,
          .stage_latency_seconds = 1,
          .memory_bytes_per_second = 20,
          .host_bytes_per_second = 0,
          .host_memory_bytes_per_second = 0,
          .pack_cost = 1};
}

/// One message of a run.
struct Sent {
  int stage = 0;
  int src = 0;
  int dst = 0;
  std::int64_t size_bytes = 0;
  bool direct = false;            ///< at both ends
  bool is_only_unpacked = false;  ///< direct at the sender
};

/// A run of these messages alone.
class Messages {
 public:
  Messages(int num_ranks, int num_stages, const std::vector<Sent>& messages) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      Schedule& schedule = schedules_.emplace_back();
      schedule.rank = rank;
      schedule.stages.resize(static_cast<std::size_t>(num_stages));
    }
    for (const Sent& sent : messages) {
      StageMessage message;
      message.size_bytes = sent.size_bytes;
      message.direct = sent.direct || sent.is_only_unpacked;
      message.peer = sent.dst;
      stage_of(sent.src, sent.stage).sends.push_back(message);
      message.direct = sent.direct;
      message.peer = sent.src;
      stage_of(sent.dst, sent.stage).receives.push_back(message);
    }
  }

  [[nodiscard]] VirtualRun run(const Topology& topology,
                               std::vector<int> nodes = {},
                               std::vector<double> begins = {}) const {
    VirtualRun run({.node_of_rank = std::move(nodes)}, topology, std::move(begins));
    for (const Schedule& schedule : schedules_) {
      run.add({}, schedule, map_);
    }
    return run;
  }
  [[nodiscard]] std::vector<double> ends(const Topology& topology,
                                         std::vector<int> nodes = {}) const {
    return run(topology, std::move(nodes)).run().end_of_rank;
  }

 private:
  Stage& stage_of(int rank, int stage) {
    return schedules_[static_cast<std::size_t>(rank)].stages[static_cast<std::size_t>(stage)];
  }

  ShardMap map_ = testing::equal_tensors({"a|param"}, {4}, testing::cut_rows(1));
  std::vector<Schedule> schedules_;
};

using Seconds = std::vector<double>;

TEST(VirtualRun, OneMessageIsPackedSentAndUnpackedInTurn) {
  const std::vector<Sent> staged{{.src = 0, .dst = 1, .size_bytes = 100}};
  EXPECT_EQ(Messages(2, 1, staged).ends(slow_links()), (Seconds{15, 21}));
  EXPECT_EQ(Messages(2, 1, staged).ends(slow_links(), {0, 1}), (Seconds{25, 31}));
  Topology sums = slow_links();
  sums.pack_cost = 3;
  EXPECT_EQ(Messages(2, 1, staged).ends(sums), (Seconds{25, 41}));
  const std::vector<Sent> direct{{.src = 0, .dst = 1, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(2, 1, direct).ends(sums), (Seconds{10, 11}));
}

// The second of two runs: nobody sends before its own first one has ended, nor to who is not ready.
TEST(VirtualRun, RanksBeginWhereTheRunBeforeHasLeftThem) {
  const std::vector<Sent> direct{{.src = 0, .dst = 1, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(3, 1, direct).run(slow_links(), {}, {3, 0, 7}).run().end_of_rank,
            (Seconds{13, 14, 7}));
  EXPECT_EQ(Messages(3, 1, direct).run(slow_links(), {}, {3, 5, 7}).run().end_of_rank,
            (Seconds{15, 16, 7}));
  EXPECT_THROW(Messages(3, 1, direct).run(slow_links(), {}, {3, 5}), LayoutError);
  EXPECT_THROW(Messages(3, 1, direct).run(slow_links(), {}, {3, 5, -1}), LayoutError);
}

// Ports carry one message after the other; those of other ranks, and other directions, do not wait.
TEST(VirtualRun, MessagesOfAPortQueueAndOthersDoNot) {
  const std::vector<Sent> into_one{{.src = 1, .dst = 0, .size_bytes = 100, .direct = true},
                                   {.src = 2, .dst = 0, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(3, 1, into_one).ends(slow_links()), (Seconds{21, 10, 20}));
  const std::vector<Sent> swapped{{.src = 0, .dst = 1, .size_bytes = 100, .direct = true},
                                  {.src = 1, .dst = 0, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(2, 1, swapped).ends(slow_links()), (Seconds{11, 11}));
  const std::vector<Sent> near_and_far{{.src = 0, .dst = 1, .size_bytes = 100, .direct = true},
                                       {.src = 0, .dst = 2, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(3, 1, near_and_far).ends(slow_links(), {0, 0, 1}), (Seconds{20, 11, 21}));
}

// Where the cores of a host carry messages, two pairs take as long as one with twice the bytes.
TEST(VirtualRun, RanksOfAHostShareItsCores) {
  Topology host = slow_links();
  host.host_bytes_per_second = 10;
  const std::vector<Sent> two_pairs{{.src = 0, .dst = 1, .size_bytes = 100, .direct = true},
                                    {.src = 2, .dst = 3, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(4, 1, two_pairs).ends(host), (Seconds{10, 11, 20, 21}));
  EXPECT_EQ(Messages(4, 1, two_pairs).ends(host, {0, 0, 1, 1}), (Seconds{10, 11, 10, 11}));
  const std::vector<Sent> into_a_node{{.src = 0, .dst = 1, .size_bytes = 100, .direct = true},
                                      {.src = 2, .dst = 3, .size_bytes = 100, .direct = true}};
  EXPECT_EQ(Messages(4, 1, into_a_node).ends(host, {0, 1, 1, 1}), (Seconds{20, 21, 20, 21}));
  host.host_memory_bytes_per_second = 20;
  const std::vector<Sent> staged{{.src = 0, .dst = 1, .size_bytes = 100},
                                 {.src = 2, .dst = 3, .size_bytes = 100}};
  EXPECT_EQ(Messages(4, 1, staged).ends(host), (Seconds{20, 35, 30, 40}));
}

// Three stages on two slots: the third is packed when the first has left its slot on that rank, and
// sent when it has left the receiver's, too.
TEST(VirtualRun, StageWaitsForTheSlotOfTheOneTwoBefore) {
  std::vector<Sent> messages;
  for (int stage = 0; stage < 3; ++stage) {
    messages.push_back({.stage = stage, .src = 0, .dst = 1, .size_bytes = 100});
  }
  const VirtualRun run = Messages(2, 3, messages).run(slow_links());
  const std::vector<StageTimes> sender = run.times_of(0);
  const std::vector<StageTimes> receiver = run.times_of(1);
  // Packed in 5 s and sent in 10; the wire is what is slow, so it never stands still.
  EXPECT_EQ((Seconds{sender[0].pack_begin, sender[1].pack_begin, sender[2].pack_begin}),
            (Seconds{0, 5, 15}));
  EXPECT_EQ((Seconds{sender[0].wire_begin, sender[1].wire_begin, sender[2].wire_begin}),
            (Seconds{5, 15, 25}));
  EXPECT_EQ((Seconds{receiver[0].unpack_begin, receiver[1].unpack_begin, receiver[2].unpack_begin}),
            (Seconds{16, 26, 36}));
  EXPECT_EQ(run.run().seconds, 41);
}

TEST(VirtualRun, SenderWaitsForTheSlotOfASlowReceiver) {
  std::vector<Sent> messages;
  for (int stage = 0; stage < 3; ++stage) {
    messages.push_back(
        {.stage = stage, .src = 0, .dst = 1, .size_bytes = 100, .is_only_unpacked = true});
  }
  Topology slow_memory = slow_links();
  slow_memory.memory_bytes_per_second = 2;
  const std::vector<StageTimes> sender = Messages(2, 3, messages).run(slow_memory).times_of(0);
  EXPECT_EQ((Seconds{sender[0].wire_begin, sender[1].wire_begin, sender[2].wire_begin}),
            (Seconds{0, 10, 61}));
}

TEST(VirtualRun, NothingTakesNoTime) {
  EXPECT_EQ(Messages(2, 1, {}).run(slow_links()).run().seconds, 0);
  EXPECT_EQ(VirtualRun({}, slow_links()).run().seconds, 0);
}

/// Bytes that go into and out of each rank in a real schedule.
std::int64_t busiest_port(const std::vector<Schedule>& schedules) {
  std::int64_t busiest = 0;
  for (const Schedule& schedule : schedules) {
    std::int64_t sent = 0;
    std::int64_t received = 0;
    for (const Stage& stage : schedule.stages) {
      for (const StageMessage& message : stage.sends) {
        sent += message.size_bytes;
      }
      for (const StageMessage& message : stage.receives) {
        received += message.size_bytes;
      }
    }
    busiest = std::max({busiest, sent, received});
  }
  return busiest;
}

// A prediction below what the busiest link takes would promise what no run can keep.
TEST(VirtualRun, RealSchedulesTakeNoLessThanTheirBusiestLinkAndScaleWithSpeed) {
  testing::for_random_schedules(200, [](const testing::Scheduled& scheduled) {
    Topology links = slow_links();
    links.link_bytes_per_second = links.node_link_bytes_per_second;
    Topology fast = links;
    fast.link_bytes_per_second = fast.node_link_bytes_per_second = 20;
    fast.memory_bytes_per_second = 40;
    fast.stage_latency_seconds = 0.5;
    VirtualRun run({}, links);
    VirtualRun fast_run({}, fast);
    for (std::size_t rank = 0; rank < scheduled.schedules.size(); ++rank) {
      run.add(scheduled.plans[rank], scheduled.schedules[rank], scheduled.source);
      fast_run.add(scheduled.plans[rank], scheduled.schedules[rank], scheduled.source);
    }
    const double seconds = run.run().seconds;
    EXPECT_GE(seconds, static_cast<double>(busiest_port(scheduled.schedules)) / 10);
    EXPECT_NEAR(fast_run.run().seconds, seconds / 2, 1e-9 * seconds);
  });
}

TEST(VirtualRun, SchedulesThatAreNoneOfOneSwitchAreRefused) {
  const ShardMap map = testing::equal_tensors({"a|param"}, {4}, testing::cut_rows(1));
  const Messages messages(2, 1, {{.src = 0, .dst = 1, .size_bytes = 100}});
  EXPECT_THROW(static_cast<void>(messages.run(slow_links()).times_of(2)), LayoutError);
  EXPECT_THROW(messages.run(slow_links(), {0}), LayoutError);
  Topology still = slow_links();
  still.link_bytes_per_second = 0;
  EXPECT_THROW(VirtualRun({}, still), LayoutError);
  Schedule alone;
  alone.stages.resize(1);
  alone.stages[0].sends.resize(1);
  alone.stages[0].sends[0].peer = 1;
  VirtualRun run({}, slow_links());
  run.add({}, alone, map);
  EXPECT_THROW(static_cast<void>(run.run()), LayoutError);
  Schedule longer;
  longer.rank = 1;
  longer.stages.resize(2);
  EXPECT_THROW(run.add({}, longer, map), LayoutError);
  alone.stages[0].sends.clear();
  run.add({}, alone, map);
  EXPECT_THROW(static_cast<void>(run.run()), LayoutError);
}

}  // namespace
}  // namespace dynatrain
