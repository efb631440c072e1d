#include "dynatrain/plan/plan.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

namespace dynatrain {
namespace {

using testing::cut_columns;
using testing::cut_rows;
using testing::equal_tensors;
using testing::numbered_names;

/// The text of the LayoutError that `call` throws, or "" when it throws none.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const LayoutError& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Host and device tensors take different ways; nothing may be lost between the two, and both ends
// of a pair must cut their lists in the same way.
TEST(PlanParts, PartsOfAPlanHoldEveryMoveOnceAndAgreeOnBothEnds) {
  const std::vector<std::string> names{"a", "b", "c", "d"};
  const ShardMap source = equal_tensors(names, {12, 6}, cut_rows(4));
  const ShardMap target = equal_tensors(names, {12, 6}, cut_columns(3));
  const std::vector<TensorId> host{TensorId(1), TensorId(3)};
  const std::vector<TensorId> device{TensorId(0), TensorId(2)};
  for (int rank = 0; rank < 4; ++rank) {
    const Plan whole = make_plan(source, target, rank, {});
    const Plan on_host = part_of(whole, source, host);
    const Plan on_device = part_of(whole, source, device);
    EXPECT_EQ(on_host.locals.size() + on_device.locals.size(), whole.locals.size());
    EXPECT_EQ(on_host.traffic.sent_bytes + on_device.traffic.sent_bytes, whole.traffic.sent_bytes);
    EXPECT_EQ(on_host.traffic.kept_bytes + on_device.traffic.kept_bytes, whole.traffic.kept_bytes);
    for (const PairList& list : on_host.sends) {
      EXPECT_TRUE(std::ranges::all_of(list.moves, [](const Move& move) {
        return move.tensor == TensorId(1) || move.tensor == TensorId(3);
      }));
      const Plan peer = part_of(make_plan(source, target, list.peer, {}), source, host);
      const auto theirs = std::ranges::find(peer.receives, rank, &PairList::peer);
      ASSERT_NE(theirs, peer.receives.end());
      EXPECT_EQ(theirs->moves, list.moves);
      EXPECT_EQ(theirs->hash, list.hash);
      EXPECT_EQ(theirs->size_bytes, list.size_bytes);
    }
  }
}

// Layers repeat: planning each of them anew would cost as much as there are layers.
TEST(PlanStamping, EqualTensorsShareOneCellTable) {
  std::vector<ShardMap::Entry> held;
  std::vector<ShardMap::Entry> needed;
  for (int i = 0; i < 200; ++i) {
    const Shape shape = i % 2 == 0 ? Shape{64, 32} : Shape{32};
    const LogicalTensor tensor{"t" + std::to_string(i), shape, {"float32", 4}};
    held.push_back({tensor, cut_rows(4)});  // made anew: equality is by value, not by address
    needed.push_back({tensor, cut_rows(2)});
  }

  const Plan plan = make_plan(ShardMap(held), ShardMap(needed), 1, {});

  EXPECT_EQ(plan.num_cell_tables, 2);
}

// Only the cells of this rank are expanded: its tables must not grow with the world.
TEST(PlanCost, MovesOfARankDoNotGrowWithTheWorld) {
  const auto num_moves = [](int num_ranks) {
    const Shape shape{std::int64_t{num_ranks} * 4, 8};
    const ShardMap source = equal_tensors({"w"}, shape, cut_rows(num_ranks));
    const ShardMap target = equal_tensors({"w"}, shape, cut_rows(num_ranks / 2));
    const Plan plan = make_plan(source, target, 1, {});
    return plan.sends.size() + plan.receives.size() + plan.locals.size();
  };

  EXPECT_EQ(num_moves(512), num_moves(8));
}

// Cuts of other ranks must not chop a move that is one box for this pair.
TEST(PlanMerging, NeighbouringCellsOfAPairBecomeOneMove) {
  const Shape shape{12, 4};
  const auto held_by_0 = make_union_sharding(
      {make_replicated_sharding({0}),
       make_compact_sharding({{3}, {2, 3, 4}}, {{Placement::Kind::kShard, 0, 1}})});
  const ShardMap source = equal_tensors({"w"}, shape, held_by_0);
  const ShardMap target = equal_tensors({"w"}, shape, make_replicated_sharding({0, 1}));

  const Plan plan = make_plan(source, target, 0, {});

  ASSERT_EQ(plan.locals.size(), 1U);
  EXPECT_EQ(plan.locals[0].box, Box::whole(shape));
}

// An unchanged tensor needs no copy; recognising it saves the memory of a second one.
TEST(PlanAdoption, TensorsThatStayPutAreAdoptable) {
  const Shape shape{8, 8};
  const ShardMap source = equal_tensors({"a", "b"}, shape, cut_rows(2));
  std::vector<ShardMap::Entry> entries{{source.tensor(TensorId(0)), cut_rows(2)},
                                       {source.tensor(TensorId(1)), cut_columns(2)}};

  const Plan plan = make_plan(source, ShardMap(entries), 0, {});

  EXPECT_EQ(plan.adoptable, std::vector<TensorId>{TensorId(0)});
  EXPECT_EQ(plan.traffic.adoptable_bytes, 8 * 4 * 4);
}

// Rows to columns on two ranks: half of the own half stays, the other half is exchanged.
TEST(PlanTraffic, CountsSentReceivedAndKeptBytes) {
  const Shape shape{8, 8};
  const ShardMap source = equal_tensors({"w"}, shape, cut_rows(2));
  const ShardMap target = equal_tensors({"w"}, shape, cut_columns(2));

  const Traffic traffic = make_plan(source, target, 0, {}).traffic;

  EXPECT_EQ(traffic.sent_bytes, 4 * 4 * 4);
  EXPECT_EQ(traffic.received_bytes, 4 * 4 * 4);
  EXPECT_EQ(traffic.kept_bytes, 4 * 4 * 4);
  EXPECT_EQ(traffic.lower_bound_bytes, 4 * 4 * 4);
}

// A rank that takes part in neither layout (dp3 of 4 processes) has nothing to do, and no error.
TEST(PlanTraffic, AnIdleRankMovesNothing) {
  const ShardMap source = equal_tensors({"w"}, {8}, cut_rows(2));

  const Plan plan = make_plan(source, source, 5, {});

  EXPECT_TRUE(plan.sends.empty() && plan.receives.empty() && plan.locals.empty());
}

// A pipeline's other stages hold most of the tensors: what a rank has no part in must cost it
// nothing.
TEST(PlanCost, TensorsOfOtherRanksAloneTakeNoTable) {
  const auto with = [](std::vector<int> ranks) {
    return make_replicated_sharding(std::move(ranks));
  };
  const auto map_of = [&](int first, int second) {
    const Shape shape{8, 4};
    const DType dtype{"float32", 4};
    return ShardMap({{{"a|param", shape, dtype}, with({0, first})},
                     {{"b|param", shape, dtype}, with({1, second})}});
  };
  const Plan plan = make_plan(map_of(2, 3), map_of(4, 5), 3, {});
  EXPECT_EQ(plan.num_cell_tables, 1);
  EXPECT_EQ(make_plan(map_of(2, 3), map_of(4, 5), 6, {}).num_cell_tables, 0);
}

// The bound is what a measured switch is judged by: the busiest direction and its latency, or local
// copies, which go on beside it.
TEST(PlanBounds, TimeIsThatOfTheBusiestLinkOrOfCopiesWhereTheyTakeLonger) {
  const Traffic traffic{.sent_bytes = 100,
                        .received_bytes = 300,
                        .kept_bytes = 50,
                        .lower_bound_bytes = 300,
                        .adoptable_bytes = 10};
  const LinkTraffic near{.near_sent_bytes = 100, .near_received_bytes = 300};
  const LinkTraffic both{.near_sent_bytes = 100,
                         .near_received_bytes = 200,
                         .far_sent_bytes = 0,
                         .far_received_bytes = 100};
  const Topology topology{.link_bytes_per_second = 10,
                          .node_link_bytes_per_second = 100,
                          .stage_latency_seconds = 0.5,
                          .memory_bytes_per_second = 20};

  EXPECT_DOUBLE_EQ(time_bound_seconds(traffic, near, topology), 3.0 + 0.5);
  EXPECT_DOUBLE_EQ(time_bound_seconds(traffic, both, topology), 10.0 + 0.5);
  EXPECT_DOUBLE_EQ(time_bound_seconds(traffic, {}, topology), 2.0);
}

// What crosses between nodes takes the slow links; a byte on the wrong side of the sum is ten times
// as fast as it can be.
TEST(PlanBounds, BytesAreCountedByTheLinksThatTheyTake) {
  const ShardMap source = equal_tensors({"a"}, {12, 4}, cut_rows(2));
  const ShardMap target = equal_tensors({"a"}, {12, 4}, cut_rows(4));  // 3 of 12 rows each
  const std::int64_t part = source.tensor(TensorId(0)).size_bytes() / 4;
  const DecisionRecord record{.node_of_rank = {0, 0, 0, 1}};
  // Rank 0 has rows 0-5 and 1 has 6-11: 1 lacks 3-5, 2 lacks 6-8, 3 lacks 9-11.
  const auto links = [&](int rank) {
    return link_traffic(make_plan(source, target, rank, record), record);
  };
  EXPECT_EQ(links(0), (LinkTraffic{.near_sent_bytes = part}));
  EXPECT_EQ(
      links(1),
      (LinkTraffic{.near_sent_bytes = part, .near_received_bytes = part, .far_sent_bytes = part}));
  EXPECT_EQ(links(3), (LinkTraffic{.far_received_bytes = part}));
  EXPECT_EQ(link_traffic(make_plan(source, target, 3, {}), {}),
            (LinkTraffic{.near_received_bytes = part}));
  const DecisionRecord short_record{.node_of_rank = {0, 0}};
  EXPECT_THROW((void)link_traffic(make_plan(source, target, 3, record), short_record), LayoutError);
}

// Law 2's other half: what nobody holds must be named, not left as garbage in the new model.
TEST(Law2Coverage, ACellWithoutOwnerIsNamed) {
  const Shape shape{8, 4};
  const auto upper_half = make_table_sharding({{0, {{Box{{0, 0}, {4, 4}}, View{0, {4, 1}}}}}});
  const ShardMap source = equal_tensors({"lost|param"}, shape, upper_half);
  const ShardMap target = equal_tensors({"lost|param"}, shape, make_replicated_sharding({0, 1}));

  const std::string text = refusal([&] { std::ignore = make_plan(source, target, 1, {}); });

  EXPECT_TRUE(has(text, "'lost|param'")) << text;
  EXPECT_TRUE(has(text, "rank 1")) << text;
  EXPECT_TRUE(has(text, (Box{{4, 0}, {8, 4}}).to_string())) << text;
  EXPECT_TRUE(has(text, "nothing was moved")) << text;
}

// The commonest mistake is a renamed module: the message must show both names side by side.
TEST(PlanTensors, MissingAndExtraNamesComeWithTheNearestOne) {
  const ShardMap source = equal_tensors({"mlp.fc1|param", "same|param"}, {4}, cut_rows(2));
  const ShardMap target = equal_tensors({"mlp.fc_1|param", "same|param"}, {4}, cut_rows(2));

  const std::string text = refusal([&] { check_same_tensors(source, target); });

  EXPECT_TRUE(has(text, "'mlp.fc1|param' (nearest: 'mlp.fc_1|param')")) << text;
  EXPECT_TRUE(has(text, "'mlp.fc_1|param' (nearest: 'mlp.fc1|param')")) << text;
  EXPECT_FALSE(has(text, "same|param")) << text;
}

// A thousand lines of names hide the cause.
TEST(PlanTensors, AtMostEightNamesAreListed) {
  const ShardMap source = equal_tensors(numbered_names(20), {4}, cut_rows(2));
  const ShardMap target = equal_tensors({}, {4}, cut_rows(2));

  const std::string text = refusal([&] { check_same_tensors(source, target); });

  std::size_t num_names = 0;
  for (std::size_t at = text.find("'layer."); at != std::string::npos;
       at = text.find("'layer.", at + 1)) {
    ++num_names;
  }
  EXPECT_EQ(num_names, 8U) << text;
  EXPECT_TRUE(has(text, "(20)")) << text;
}

// Bytes of another shape or type would be read as numbers all the same.
TEST(PlanTensors, AnotherShapeOrTypeIsRefused) {
  const ShardMap source = equal_tensors({"w|param"}, {4, 6}, cut_rows(2));
  const ShardMap reshaped = equal_tensors({"w|param"}, {6, 4}, cut_rows(2));
  const ShardMap retyped({{{"w|param", {4, 6}, {"bfloat16", 2}}, cut_rows(2)}});

  const std::string shape_text = refusal([&] { check_same_tensors(source, reshaped); });
  const std::string dtype_text = refusal([&] { check_same_tensors(source, retyped); });

  EXPECT_TRUE(has(shape_text, "float32[4, 6]") && has(shape_text, "float32[6, 4]")) << shape_text;
  EXPECT_TRUE(has(dtype_text, "float32[4, 6]") && has(dtype_text, "bfloat16[4, 6]")) << dtype_text;
}

// A record for another world would index past its end.
TEST(PlanRecord, NodesForTooFewRanksAreRefused) {
  const ShardMap map = equal_tensors({"w"}, {4}, cut_rows(4));

  const std::string text =
      refusal([&] { std::ignore = make_plan(map, map, 0, {.node_of_rank = {0, 0}}); });

  EXPECT_TRUE(has(text, "nodes of 2 ranks")) << text;
}

}  // namespace
}  // namespace dynatrain
