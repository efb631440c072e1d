// Law 6 over NCCL: whatever the plan, the groups of all ranks fit together. Schedules of random
// plans run over a NCCL that buffers nothing and cuts groups that are too large.

#include "dynatrain/plan/plan.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <gtest/gtest.h>

#include "transport/nccl_group_checker.hpp"
#include "transport/nccl_world.hpp"
#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

/// Flat tensors cut at random over random ranks; many ranks hold nothing of one.
ShardMap random_map(int num_ranks, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int> ranks;
  for (int rank = 0; rank < num_ranks; ++rank) {
    ranks.push_back(rank);
  }
  std::vector<ShardMap::Entry> entries;
  for (int i = 0; i < 4; ++i) {
    const Shape shape{61, 35};
    std::vector<std::int64_t> bounds{0, 61 * 35};
    for (int rank = 1; rank < num_ranks; ++rank) {
      // Cuts that coincide leave ranks out, and with them pairs.
      bounds.push_back(static_cast<std::int64_t>(random() % 12 * 177));
    }
    std::ranges::sort(bounds);
    const std::vector<std::int64_t> offsets(ranks.size(), 0);
    std::ranges::shuffle(ranks, random);
    entries.push_back({{"flat" + std::to_string(i) + "|param", shape, {"float32", 4}},
                       make_flat_sharding(shape, ranks, bounds, offsets)});
  }
  return ShardMap(std::move(entries));
}

using Bytes = std::vector<std::byte>;

/// What both ends expect a message to hold.
Bytes content(int src, int dst, int stage, const StageMessage& message) {
  std::mt19937_64 random(
      static_cast<std::uint64_t>(((src * 64 + dst) * 1024 + stage) * 16 + message.ordinal));
  Bytes bytes(static_cast<std::size_t>(message.size_bytes));
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

/// One rank that runs its schedule as the executor does: all of a stage at once, two in flight.
class Runner {
 public:
  Runner(NcclTransport& transport, const Schedule& schedule)
      : transport_(transport), schedule_(schedule) {}

  [[nodiscard]] bool has_ended() const {
    return tokens_.size() == schedule_.stages.size() &&
           std::ranges::all_of(tokens_, [](const Token& token) { return token.done(); });
  }
  /// Posts the next stage if there is one and the slot is free.
  bool step() {
    const std::size_t k = tokens_.size();
    if (k == schedule_.stages.size() || (k >= 2 && !tokens_[k - 2].done())) {
      return false;
    }
    const Stage& stage = schedule_.stages[k];
    const int index = static_cast<int>(k);
    const std::vector<WireMessage> sends = prepare(stage.sends, index, true);
    const std::vector<WireMessage> receives = prepare(stage.receives, index, false);
    tokens_.push_back(transport_
                          .exchange({.sends = sends, .receives = receives},
                                    {},
                                    deadline_in(std::chrono::seconds(60)))
                          .received);
    return true;
  }
  [[nodiscard]] int num_wrong() const {
    return static_cast<int>(
        std::ranges::count_if(arrivals_, [](const Arrival& a) { return a.bytes != a.expected; }));
  }

 private:
  struct Arrival {
    Bytes bytes;
    Bytes expected;
  };

  std::vector<WireMessage> prepare(const std::vector<StageMessage>& given, int k, bool is_send) {
    std::vector<WireMessage> messages;
    for (const StageMessage& message : given) {
      const int src = is_send ? schedule_.rank : message.peer;
      const int dst = is_send ? message.peer : schedule_.rank;
      Bytes expected = content(src, dst, k, message);
      Bytes bytes = is_send ? expected : Bytes(expected.size());
      arrivals_.push_back({.bytes = std::move(bytes), .expected = std::move(expected)});
      messages.push_back({.peer = message.peer,
                          .tag = static_cast<std::uint32_t>(message.ordinal),
                          .data = arrivals_.back().bytes.data(),
                          .size_bytes = message.size_bytes});
    }
    return messages;
  }

  NcclTransport& transport_;
  const Schedule& schedule_;
  std::vector<Token> tokens_;
  std::deque<Arrival> arrivals_;  ///< sends too, which must not change
};

std::vector<Schedule> random_schedules(int num_ranks, std::uint64_t seed) {
  const ShardMap source = random_map(num_ranks, seed);
  const ShardMap target = random_map(num_ranks, seed + 1000);
  ScheduleOptions options;
  options.staging_budget_bytes = std::max(16384, 2048 * num_ranks);
  options.direct_threshold_bytes = 256;
  options.min_message_bytes = 1;
  options.num_stages_to_overlap = 5;
  std::vector<Plan> plans;
  int num_stages = 1;
  for (int rank = 0; rank < num_ranks; ++rank) {
    plans.push_back(make_plan(source, target, rank, {}));
    num_stages = std::max(num_stages, num_stages_wanted(plans.back(), options));
  }
  std::vector<Schedule> schedules;
  schedules.reserve(plans.size());
  for (const Plan& plan : plans) {
    schedules.push_back(make_schedule(plan, source, target, num_stages, options));
  }
  return schedules;
}

struct Case {
  int num_ranks = 2;
  std::uint64_t seed = 0;
  NcclOptions options;
};

/// Lets random ranks post as far ahead as they may, until all have ended or none can go on.
void run_to_the_end(std::vector<Runner>& runners, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Runner*> order;
  for (Runner& runner : runners) {
    order.push_back(&runner);
  }
  bool has_moved = true;
  while (has_moved) {
    std::ranges::shuffle(order, random);
    has_moved = std::ranges::any_of(order, [](Runner* runner) { return runner->step(); });
  }
}

void run_case(const Case& what) {
  SCOPED_TRACE("ranks " + std::to_string(what.num_ranks) + " seed " + std::to_string(what.seed));
  const std::vector<Schedule> schedules = random_schedules(what.num_ranks, what.seed);
  FakeNcclWorld world(what.num_ranks, what.options);
  std::vector<Runner> runners;
  for (int rank = 0; rank < what.num_ranks; ++rank) {
    runners.emplace_back(world.rank(rank), schedules[static_cast<std::size_t>(rank)]);
  }
  run_to_the_end(runners, what.seed);
  std::vector<std::vector<NcclGroupChecker::Group>> groups;
  for (int rank = 0; rank < what.num_ranks; ++rank) {
    groups.push_back(world.cluster->rank(rank).groups);
    EXPECT_EQ(world.cluster->rank(rank).faults, std::vector<std::string>());
    EXPECT_TRUE(runners[static_cast<std::size_t>(rank)].has_ended())
        << "rank " << rank << " is in a deadlock";
    EXPECT_EQ(runners[static_cast<std::size_t>(rank)].num_wrong(), 0) << "rank " << rank;
  }
  const NcclGroupChecker checker(groups, {.num_channels = what.options.max_channels});
  EXPECT_EQ(checker.fault(), "");
  EXPECT_GT(checker.num_groups(), what.num_ranks);
}

// A hang here is a hang of a training job on hundreds of GPUs; there it shows nothing but silence.
TEST(NcclLaw6, RandomPlansEndAndEveryByteArrives) {
  for (int num_ranks = 2; num_ranks <= 17; ++num_ranks) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      Case what{.num_ranks = num_ranks, .seed = seed, .options = {}};
      what.options.piece_bytes = 700;
      run_case(what);
      ASSERT_FALSE(HasFailure());
    }
  }
}

// The options that a user may choose are as safe as the default, up to the limit that is refused.
TEST(NcclLaw6, EveryAcceptedGroupSizeIsSafe) {
  for (const auto& [max_ops, max_channels] :
       {std::pair(1, 64), std::pair(3, 32), std::pair(7, 16), std::pair(15, 8)}) {
    Case what{.num_ranks = 6, .seed = 9, .options = {}};
    what.options.piece_bytes = 300;
    what.options.max_ops_per_group = max_ops;
    what.options.max_channels = max_channels;
    run_case(what);
  }
}

FakeCluster::Op send_to(int peer, std::int64_t size_bytes = 8) {
  return {.is_send = true, .peer = peer, .size_bytes = size_bytes};
}

FakeCluster::Op receive_from(int peer) {
  return {.is_send = false, .peer = peer, .size_bytes = 8};
}

/// What the checker finds in the groups of two ranks.
std::string fault_of(const std::vector<NcclGroupChecker::Group>& of_rank_0,
                     const std::vector<NcclGroupChecker::Group>& of_rank_1) {
  return NcclGroupChecker({of_rank_0, of_rank_1}, {}).fault();
}

// The checker is worth something only if it sees what it is there for.
TEST(NcclGroupChecker, GroupThatMayNeedTwoPlansIsAFault) {
  EXPECT_EQ(fault_of({{7, send_to(1)}}, {{7, receive_from(0)}}), "");
  EXPECT_NE(fault_of({{8, send_to(1)}}, {{8, receive_from(0)}}).find("more batches"),
            std::string::npos);
}

TEST(NcclGroupChecker, GroupsThatWaitForEachOtherAreAFault) {
  EXPECT_EQ(fault_of({{send_to(1), receive_from(1)}}, {{send_to(0), receive_from(0)}}), "");
  EXPECT_EQ(fault_of({{send_to(1)}, {receive_from(1)}}, {{receive_from(0)}, {send_to(0)}}), "");
  EXPECT_NE(fault_of({{send_to(1)}, {receive_from(1)}}, {{send_to(0)}, {receive_from(0)}})
                .find("wait for each other"),
            std::string::npos);
}

TEST(NcclGroupChecker, EndsThatDoNotMeetAreAFault) {
  EXPECT_NE(fault_of({{send_to(1)}}, {}), "");
  EXPECT_NE(fault_of({}, {{receive_from(0)}}), "");
  EXPECT_NE(fault_of({{send_to(1, 9)}}, {{receive_from(0)}}).find("two sizes"), std::string::npos);
}

/// How many kernels never end when all messages between `num_ranks` ranks go out in one group.
std::size_t num_stuck(int num_ranks, int num_channels, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  FakeCluster cluster(num_ranks);
  cluster.num_channels = num_channels;
  std::array<std::byte, 2> bytes{};
  std::vector<std::vector<FakeCluster::Op>> ops(static_cast<std::size_t>(num_ranks));
  for (int src = 0; src < num_ranks; ++src) {
    for (int dst = 0; dst < num_ranks; ++dst) {
      for (std::uint64_t i = random() % 5; src != dst && i > 0; --i) {
        ops[static_cast<std::size_t>(src)].push_back(
            {.is_send = true, .peer = dst, .data = &bytes[0], .size_bytes = 1});
        ops[static_cast<std::size_t>(dst)].push_back(
            {.is_send = false, .peer = src, .data = &bytes[1], .size_bytes = 1});
      }
    }
  }
  for (int rank = 0; rank < num_ranks; ++rank) {
    cluster.rank(rank).stream = cluster.plans(rank, ops[static_cast<std::size_t>(rank)]);
  }
  cluster.progress();
  std::size_t num_left = 0;
  for (int rank = 0; rank < num_ranks; ++rank) {
    num_left += cluster.rank(rank).stream.size();
  }
  return num_left;
}

// Why groups are small: what runs when NCCL need not cut a group hangs once it has to, as each rank
// cuts where its own work fills a plan. A fake that let this pass would prove nothing above.
TEST(NcclFake, LargeGroupHangsOnlyWhenNcclHasToCutIt) {
  int num_hangs = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    EXPECT_EQ(num_stuck(8, 1, seed), 0U) << "seed " << seed;
    num_hangs += num_stuck(8, 32, seed) > 0 ? 1 : 0;
  }
  EXPECT_GT(num_hangs, 0);
}

}  // namespace
}  // namespace dynatrain
