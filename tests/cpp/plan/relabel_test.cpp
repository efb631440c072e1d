// Who takes which place: against every order that there is, and against moves of real plans.

#include "dynatrain/plan/relabel.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "plan/assignment.hpp"
#include "plan/small_maps.hpp"
#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::cut_rows;
using testing::equal_tensors;
using testing::first_ranks;

std::vector<int> natural(int count) {
  return first_ranks(count);
}

/// The target's map where these ranks take its places.
ShardMap renumbered(const ShardMap& map, const std::vector<int>& ranks) {
  std::vector<ShardMap::Entry> entries;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    std::map<int, std::vector<Fragment>> fragments;
    for (std::size_t place = 0; place < ranks.size(); ++place) {
      const auto held = map.fragments(id, static_cast<int>(place));
      if (!held.empty()) {
        fragments[ranks[place]] = held;
      }
    }
    entries.push_back({map.tensor(id), make_table_sharding(std::move(fragments))});
  }
  return ShardMap(std::move(entries));
}

/// Bytes moved, and the part of them between nodes, by the plans of all ranks.
std::pair<std::int64_t, std::int64_t> moved(const ShardMap& source,
                                            const ShardMap& target,
                                            const DecisionRecord& record) {
  std::int64_t all = 0;
  std::int64_t far = 0;
  const int num_ranks = std::max(source.num_ranks(), target.num_ranks());
  for (int rank = 0; rank < num_ranks; ++rank) {
    const Plan plan = make_plan(source, target, rank, record);
    all += plan.traffic.received_bytes;
    far += link_traffic(plan, record).far_received_bytes;
  }
  return {all, far};
}

// Every matrix of up to six rows against all orders of its columns.
TEST(Relabel, AssignmentIsTheBestOfAllOrders) {
  std::mt19937 random(5);  // NOLINT: the same instances everywhere
  for (int trial = 0; trial < 400; ++trial) {
    const std::size_t size = 1 + random() % 6;
    Gains gains(size);
    for (std::size_t row = 0; row < size; ++row) {
      for (std::size_t column = 0; column < size; ++column) {
        gains.add(row, column, static_cast<std::int64_t>(random() % 5) * (1LL << 40U));
      }
    }
    const auto value = [&](const std::vector<std::size_t>& columns) {
      std::int64_t sum = 0;
      std::size_t own = 0;
      for (std::size_t row = 0; row < size; ++row) {
        sum += gains.at(row, columns[row]);
        own += columns[row] == row ? 1U : 0U;
      }
      return std::pair(sum, own);
    };
    std::vector<std::size_t> order(size);
    std::iota(order.begin(), order.end(), std::size_t{0});
    auto best = value(order);
    do {
      best = std::max(best, value(order));
    } while (std::ranges::next_permutation(order).found);
    const std::vector<std::size_t> found = best_assignment(gains);
    EXPECT_EQ(std::set<std::size_t>(found.begin(), found.end()).size(), size);
    EXPECT_EQ(value(found), best) << "trial " << trial;
  }
}

// Rows in quarters against rows in halves of which each is halved again, by the other axis: ranks 1
// and 2 have each other's part.
TEST(Relabel, RanksThatHaveEachOthersPartsAreExchanged) {
  const Shape shape{8, 4};
  const ShardMap source = equal_tensors({"a|param"}, shape, cut_rows(4));
  const ShardMap target = equal_tensors(
      {"a|param"},
      shape,
      make_compact_sharding({{2, 2}, natural(4)},
                            {{Placement::Kind::kShard, 0, 2}, {Placement::Kind::kShard, 0, 1}}));
  const Relabelling found = relabel(source, target, {}, natural(4));
  EXPECT_EQ(found.ranks, (std::vector<int>{0, 2, 1, 3}));
  EXPECT_EQ(found.moved_bytes, 0);
  EXPECT_EQ(found.natural_moved_bytes, std::int64_t{2} * 2 * 4 * 4);
  EXPECT_EQ(moved(source, renumbered(target, found.ranks), {}).first, 0);
}

// Rows by three nodes of two ranks, held in another order of nodes: whole blocks move, not ranks.
TEST(Relabel, BlocksOfANodeStayTogether) {
  const Shape shape{6, 4};
  const std::vector<int> nodes{0, 0, 1, 1, 2, 2};
  const ShardMap source =
      equal_tensors({"a|param"},
                    shape,
                    make_compact_sharding({{6}, natural(6)}, {{Placement::Kind::kShard, 0, 1}}));
  const ShardMap cyclic = renumbered(source, {3, 2, 5, 4, 1, 0});
  const Relabelling found = relabel(cyclic, source, {.node_of_rank = nodes}, natural(6));
  EXPECT_EQ(found.ranks, (std::vector<int>{3, 2, 5, 4, 1, 0}));
  EXPECT_EQ(found.moved_bytes, 0);
  // Halves of what a node needs lie on two others: no exchange of blocks gains, and none of ranks
  // across nodes is made.
  const ShardMap mixed = renumbered(source, {2, 4, 0, 5, 1, 3});
  const Relabelling within = relabel(mixed, source, {.node_of_rank = nodes}, natural(6));
  for (std::size_t block = 0; block < 3; ++block) {
    EXPECT_EQ(nodes[static_cast<std::size_t>(within.ranks[2 * block])],
              nodes[static_cast<std::size_t>(within.ranks[2 * block + 1])]);
  }
}

// One of the ranks that idle afterwards has what the smaller world needs.
TEST(Relabel, WhoHasMostOfItStays) {
  const Shape shape{4, 4};
  const ShardMap source = equal_tensors({"a|param"}, shape, make_replicated_sharding({2}));
  const ShardMap target = equal_tensors({"a|param"}, shape, make_replicated_sharding({0}));
  const Relabelling found = relabel(source, target, {}, natural(3));
  EXPECT_EQ(found.ranks.front(), 2);
  EXPECT_EQ(found.moved_bytes, 0);
  // Only who is there takes a place.
  EXPECT_EQ(relabel(source, target, {}, natural(2)).ranks, natural(2));
}

// Random layouts and nodes: what is said of bytes is what plans move, never more than in natural
// order, and blocks are never torn.
TEST(Relabel, IsNeverWorseAndSaysWhatPlansMove) {
  std::mt19937 random(11);  // NOLINT: the same instances everywhere
  int num_gained = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const Shape shape{static_cast<std::int64_t>(4 + random() % 9),
                      static_cast<std::int64_t>(4 + random() % 9)};
    const int num_ranks = 16;
    std::vector<int> shuffled = natural(num_ranks);
    std::ranges::shuffle(shuffled, random);
    const ShardMap source = renumbered(
        equal_tensors({"a|param", "b|param"}, shape, testing::any_sharding(random)), shuffled);
    const ShardMap target =
        equal_tensors({"a|param", "b|param"}, shape, testing::any_sharding(random));
    DecisionRecord record;
    for (int rank = 0; rank < num_ranks; ++rank) {
      record.node_of_rank.push_back(rank / (trial % 2 == 0 ? 4 : 8));
    }
    SCOPED_TRACE("trial " + std::to_string(trial));
    const Relabelling found = relabel(source, target, record, natural(num_ranks));
    EXPECT_EQ(std::pair(found.natural_moved_bytes, found.natural_moved_far_bytes),
              moved(source, target, record));
    EXPECT_EQ(std::pair(found.moved_bytes, found.moved_far_bytes),
              moved(source, renumbered(target, found.ranks), record));
    EXPECT_LE(found.moved_bytes, found.natural_moved_bytes);
    EXPECT_LE(found.moved_far_bytes, found.natural_moved_far_bytes);
    std::vector<int> sorted = found.ranks;
    std::ranges::sort(sorted);
    EXPECT_EQ(sorted, natural(num_ranks));
    for (std::size_t place = 1; place < found.ranks.size(); ++place) {
      if (record.node_of_rank[place] == record.node_of_rank[place - 1]) {
        EXPECT_EQ(record.node_of(found.ranks[place]), record.node_of(found.ranks[place - 1]));
      }
    }
    num_gained += found.moved_bytes < found.natural_moved_bytes ? 1 : 0;
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(num_gained, 60);
}

TEST(Relabel, RanksThatDoNotFitTheMapAreRefused) {
  const ShardMap map = equal_tensors({"a|param"}, {4, 4}, cut_rows(4));
  EXPECT_THROW(static_cast<void>(relabel(map, map, {}, natural(3))), LayoutError);
  EXPECT_THROW(static_cast<void>(relabel(map, map, {}, std::vector<int>{0, 1, 2, 2})), LayoutError);
  const DecisionRecord short_record{.node_of_rank = {0, 0}};
  EXPECT_THROW(static_cast<void>(relabel(map, map, short_record, natural(4))), LayoutError);
}

}  // namespace
}  // namespace dynatrain
