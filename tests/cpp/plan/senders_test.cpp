#include "dynatrain/plan/plan.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include <algorithm>
#include <vector>

namespace dynatrain {
namespace {

using testing::equal_tensors;
using testing::numbered_names;

std::vector<Plan> plans_of(const ShardMap& source,
                           const ShardMap& target,
                           const DecisionRecord& record) {
  std::vector<Plan> plans;
  for (int rank = 0; rank < std::max(source.num_ranks(), target.num_ranks()); ++rank) {
    plans.push_back(make_plan(source, target, rank, record));
  }
  return plans;
}

std::int64_t most_sent(const std::vector<Plan>& plans) {
  std::int64_t most = 0;
  for (const Plan& plan : plans) {
    most = std::max(most, plan.traffic.sent_bytes);
  }
  return most;
}

std::int64_t sum_sent(const std::vector<Plan>& plans) {
  std::int64_t sum = 0;
  for (const Plan& plan : plans) {
    sum += plan.traffic.sent_bytes;
  }
  return sum;
}

// One replica that sends everything makes a switch four times as long as it needs to be.
TEST(SenderChoice, FourReplicasShareOneLargeTensorEvenly) {
  const Shape shape{1024, 1024};
  const ShardMap source = equal_tensors({"w"}, shape, make_replicated_sharding({0, 1, 2, 3}));
  const ShardMap target = equal_tensors({"w"}, shape, make_replicated_sharding({4}));

  const std::vector<Plan> plans = plans_of(source, target, {});

  EXPECT_EQ(most_sent(plans), sum_sent(plans) / 4);
}

// Two owners, three needers: whole copies would load the owners 2 : 1.
TEST(SenderChoice, TwoOwnersShareThreeCopiesEvenly) {
  const Shape shape{1024, 1024};
  const ShardMap source = equal_tensors({"w"}, shape, make_replicated_sharding({0, 1}));
  const ShardMap target = equal_tensors({"w"}, shape, make_replicated_sharding({2, 3, 4}));

  const std::vector<Plan> plans = plans_of(source, target, {});

  EXPECT_EQ(most_sent(plans), sum_sent(plans) / 2);
}

// Tensors too small to split repeat with the model's layers. A rule that counts tensors would give
// the one large tensor of every layer to the same owner.
TEST(SenderChoice, SmallTensorsOfRepeatingSizesAreBalancedByBytes) {
  std::vector<ShardMap::Entry> held;
  std::vector<ShardMap::Entry> needed;
  for (int i = 0; i < 128; ++i) {
    const Shape shape{i % 4 == 0 ? 10000 : 100};
    const LogicalTensor tensor{"t" + std::to_string(1000 + i), shape, {"float32", 4}};
    held.push_back({tensor, make_replicated_sharding({0, 1, 2, 3})});
    needed.push_back({tensor, make_replicated_sharding({4})});
  }

  const std::vector<Plan> plans = plans_of(ShardMap(held), ShardMap(needed), {});

  EXPECT_LE(most_sent(plans), sum_sent(plans) / 4 + 40000);
}

// A scale-out in data parallelism: every new rank needs another shard from the same old ranks.
TEST(SenderChoice, ScalingOutLoadsEveryOldRankAlike) {
  const Shape shape{64, 8};
  const ShardMap source =
      equal_tensors(numbered_names(40), shape, make_replicated_sharding({0, 1}));
  const ShardMap target =
      equal_tensors(numbered_names(40),
                    shape,
                    make_compact_sharding({{4}, {2, 3, 4, 5}}, {{Placement::Kind::kShard, 0, 1}}));

  const std::vector<Plan> plans = plans_of(source, target, {});

  EXPECT_EQ(most_sent(plans), sum_sent(plans) / 2);
}

// Links inside a node are an order of magnitude faster than those between nodes.
TEST(SenderChoice, AnOwnerOnTheNeedersNodeComesFirst) {
  const Shape shape{1024, 1024};
  const ShardMap source = equal_tensors({"w"}, shape, make_replicated_sharding({0, 1}));
  const ShardMap target = equal_tensors({"w"}, shape, make_replicated_sharding({2, 3}));
  const DecisionRecord record{.node_of_rank = {0, 1, 0, 1}};

  const std::vector<Plan> plans = plans_of(source, target, record);

  for (const Plan& plan : plans) {
    for (const PairList& list : plan.receives) {
      EXPECT_EQ(record.node_of_rank[static_cast<std::size_t>(list.peer)],
                record.node_of_rank[static_cast<std::size_t>(plan.rank)]);
    }
  }
  EXPECT_EQ(check_plans(source, target, plans), std::vector<std::string>{});
}

// What a rank holds costs nothing, even when others hold it too.
TEST(SenderChoice, HeldCellsStayLocal) {
  const Shape shape{16, 16};
  const ShardMap source = equal_tensors({"w"}, shape, make_replicated_sharding({0, 1, 2, 3}));
  const ShardMap target = equal_tensors({"w"}, shape, testing::cut_rows(4));

  const std::vector<Plan> plans = plans_of(source, target, {});

  EXPECT_EQ(sum_sent(plans), 0);
}

// Ranks that hold different records would choose different senders (law 4).
TEST(Law4Agreement, RecordsThatDifferHaveDifferentHashes) {
  const DecisionRecord one_node;
  const DecisionRecord two_nodes{.node_of_rank = {0, 0, 1, 1}};
  const DecisionRecord other_nodes{.node_of_rank = {0, 1, 0, 1}};

  EXPECT_NE(one_node.hash(), two_nodes.hash());
  EXPECT_NE(two_nodes.hash(), other_nodes.hash());
}

}  // namespace
}  // namespace dynatrain
