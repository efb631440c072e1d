// Handing on: what each rank has behind either pass, element by element.

#include "dynatrain/plan/fan_out.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::equal_tensors;
using testing::first_ranks;

/// (tensor, coordinate in two dimensions).
using Element = std::pair<std::size_t, std::pair<std::int64_t, std::int64_t>>;
using Elements = std::set<Element>;

void add_box(const Box& box, std::size_t tensor, Elements& elements) {
  for (std::int64_t i = box.begin[0]; i < box.end[0]; ++i) {
    for (std::int64_t j = box.begin[1]; j < box.end[1]; ++j) {
      elements.insert({tensor, {i, j}});
    }
  }
}

Elements held_by(const ShardMap& map, int rank) {
  Elements elements;
  for (std::size_t t = 0; t < map.num_tensors(); ++t) {
    for (const Fragment& fragment : map.fragments(TensorId(static_cast<std::int64_t>(t)), rank)) {
      add_box(fragment.box, t, elements);
    }
  }
  return elements;
}

Elements of(const Move& move) {
  Elements elements;
  add_box(move.box, move.tensor.index(), elements);
  return elements;
}

/// What a pass brings to each rank; every sender has what it sends.
void run_pass(const std::vector<Plan>& plans,
              const std::vector<Elements>& before,
              std::vector<Elements>& after) {
  for (std::size_t rank = 0; rank < plans.size(); ++rank) {
    for (const Move& move : plans[rank].locals) {
      for (const Element& element : of(move)) {
        EXPECT_TRUE(before[rank].contains(element));
        after[rank].insert(element);
      }
    }
    for (const PairList& list : plans[rank].receives) {
      for (const Move& move : list.moves) {
        for (const Element& element : of(move)) {
          EXPECT_TRUE(before[static_cast<std::size_t>(list.peer)].contains(element));
          EXPECT_TRUE(after[rank].insert(element).second) << "it came twice to rank " << rank;
        }
      }
    }
  }
}

std::int64_t busiest_sender(const std::vector<Plan>& plans) {
  std::int64_t most = 0;
  for (const Plan& plan : plans) {
    most = std::max(most, plan.traffic.sent_bytes);
  }
  return most;
}

struct Passes {
  std::vector<Plan> first;
  std::vector<Plan> second;
};

/// Plans both passes and follows every element; nothing where nothing is handed on.
std::optional<Passes> expect_complete(const ShardMap& source,
                                      const ShardMap& target,
                                      const std::vector<int>& nodes = {},
                                      SharedBy shared_by = SharedBy::kAll) {
  const DecisionRecord record{.node_of_rank = nodes};
  const std::optional<FanOut> found = fan_out(source, target, record, shared_by, 0);
  if (!found.has_value()) {
    return std::nullopt;
  }
  const int num_ranks = std::max(source.num_ranks(), target.num_ranks());
  Passes passes;
  std::vector<Elements> had;
  for (int rank = 0; rank < num_ranks; ++rank) {
    passes.first.push_back(make_plan(source, found->scattered, rank, record));
    passes.second.push_back(hand_on_plan(*found, rank, record));
    had.push_back(held_by(source, rank));
  }
  std::vector<Elements> arrived(had.size());
  run_pass(passes.first, had, arrived);
  std::vector<Elements> complete = arrived;
  run_pass(passes.second, arrived, complete);
  for (int rank = 0; rank < num_ranks; ++rank) {
    EXPECT_EQ(complete[static_cast<std::size_t>(rank)], held_by(target, rank)) << "rank " << rank;
  }
  return passes;
}

/// What is handed on stays within nodes where each of them shares a box apart.
void expect_within_nodes(const std::optional<Passes>& passes, const std::vector<int>& nodes) {
  for (const Plan& plan : passes.value_or(Passes{}).second) {
    EXPECT_EQ(link_traffic(plan, {.node_of_rank = nodes}).far_sent_bytes, 0);
  }
}

ShardMap copies(int count, const Shape& shape) {
  return equal_tensors(
      testing::numbered_names(2), shape, make_replicated_sharding(first_ranks(count)));
}

// One owner would send seven times what it has, and the others would look on.
TEST(FanOut, OneOwnerSendsWhatItHasOnce) {
  const Shape shape{28, 4};
  const std::int64_t whole = std::int64_t{2} * 28 * 4 * 4;
  const auto passes = expect_complete(copies(1, shape), copies(8, shape));
  ASSERT_TRUE(passes.has_value());
  EXPECT_EQ(passes->first[0].traffic.sent_bytes, whole);
  EXPECT_LE(busiest_sender(passes->second), whole);
  std::vector<Plan> unicast;
  for (int rank = 0; rank < 8; ++rank) {
    unicast.push_back(make_plan(copies(1, shape), copies(8, shape), rank, {}));
  }
  EXPECT_EQ(busiest_sender(unicast), 7 * whole);
}

// Shards of the source, some of them on ranks that stay, and copies of the target.
TEST(FanOut, EveryElementComesOnceWhateverTheLayouts) {
  std::mt19937 random(3);  // NOLINT: the same instances everywhere
  int num_handed_on = 0;
  int num_in_nodes = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const Shape shape{static_cast<std::int64_t>(1 + random() % 13),
                      static_cast<std::int64_t>(1 + random() % 9)};
    const ShardMap source =
        equal_tensors({"a|param", "b|param"}, shape, testing::any_sharding(random));
    const ShardMap target =
        equal_tensors({"a|param", "b|param"}, shape, testing::any_sharding(random));
    SCOPED_TRACE("trial " + std::to_string(trial));
    num_handed_on += expect_complete(source, target).has_value() ? 1 : 0;
    std::vector<int> nodes;
    for (int rank = 0; rank < 16; ++rank) {
      nodes.push_back(static_cast<int>(random() % 3));
    }
    const auto in_nodes = expect_complete(source, target, nodes, SharedBy::kNode);
    num_in_nodes += in_nodes.has_value() ? 1 : 0;
    expect_within_nodes(in_nodes, nodes);
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(num_handed_on, 50);
  EXPECT_GT(num_in_nodes, 50);
}

// Two nodes of four new copies: each takes the bytes once, its ranks share them among each other.
TEST(FanOut, EachNodeTakesItsBytesOnce) {
  const Shape shape{24, 4};
  const std::int64_t whole = std::int64_t{2} * 24 * 4 * 4;
  const ShardMap source =
      equal_tensors(testing::numbered_names(2), shape, make_replicated_sharding({0}));
  const ShardMap target = equal_tensors(
      testing::numbered_names(2), shape, make_replicated_sharding({1, 2, 3, 4, 5, 6, 7, 8}));
  const std::vector<int> nodes{0, 1, 1, 1, 1, 2, 2, 2, 2};
  const auto passes = expect_complete(source, target, nodes, SharedBy::kNode);
  ASSERT_TRUE(passes.has_value());
  EXPECT_EQ(passes->first[0].traffic.sent_bytes, 2 * whole);
  for (std::size_t rank = 1; rank < nodes.size(); ++rank) {
    EXPECT_EQ(passes->first[rank].traffic.received_bytes, whole / 4);
    EXPECT_EQ(link_traffic(passes->second[rank], {.node_of_rank = nodes}).far_received_bytes, 0);
  }
}

// The ways of two ranks: one pass, two with less on the busiest links, two with more.
TEST(FanOut, WayIsThatOfTheBusiestLinks) {
  const std::vector<LoadsOfWays> ranks{{{100}, {40, 10}, {10, 90}}, {{20}, {10, 40}, {90, 10}}};
  EXPECT_EQ(way_of_least_load(ranks), 1U);
  const std::vector<LoadsOfWays> hardly_less{{{100}, {40, 41}}};
  EXPECT_EQ(way_of_least_load(hardly_less), 0U);
  const std::vector<LoadsOfWays> nothing_far{{{0}, {0, 0}}};
  EXPECT_EQ(way_of_least_load(nothing_far), 0U);
  const std::vector<LoadsOfWays> others{{{1}, {1, 1}}, {{1}}};
  EXPECT_THROW(static_cast<void>(way_of_least_load(others)), LayoutError);
  EXPECT_THROW(static_cast<void>(way_of_least_load({})), LayoutError);
}

// A second pass costs messages and a wait; it has to be worth that.
TEST(FanOut, IsNotForWhatHasCopiesEnoughOrIsSmall) {
  const Shape shape{28, 4};
  EXPECT_FALSE(fan_out(copies(2, shape), copies(4, shape), {}, SharedBy::kAll, 0).has_value())
      << "2 lack it";
  EXPECT_FALSE(fan_out(copies(1, shape), copies(2, shape), {}, SharedBy::kAll, 0).has_value())
      << "1 lacks it";
  EXPECT_FALSE(fan_out(copies(1, shape), copies(8, shape), {}, SharedBy::kAll).has_value())
      << "small";
  EXPECT_TRUE(fan_out(copies(1, shape), copies(3, shape), {}, SharedBy::kAll, 0).has_value());
}

// Parts lie where the target has them, or the second pass would read what is not there.
TEST(FanOut, PartsLieInTheTargetsMemory) {
  const Shape shape{6, 4};
  const ShardMap target = copies(4, shape);
  const auto found = fan_out(copies(1, shape), target, {}, SharedBy::kAll, 0);
  ASSERT_TRUE(found.has_value());
  const std::vector<Fragment> parts = found->scattered.fragments(TensorId(0), 2);
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].box, (Box{{2, 0}, {4, 4}}));
  EXPECT_EQ(parts[0].view, (View{.offset_elems = 8, .strides = {4, 1}}));
}

}  // namespace
}  // namespace dynatrain
