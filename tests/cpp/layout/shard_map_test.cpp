#include "dynatrain/layout/shard_map.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "layout/index_oracle.hpp"
#include <string>

namespace dynatrain {
namespace {

using testing::replicate;
using testing::shard;

const DType kFloat{"float32", 4};

ShardMap::Entry entry(const std::string& name,
                      Shape shape,
                      std::shared_ptr<const Sharding> sharding) {
  return {{name, shape, kFloat}, std::move(sharding)};
}

/// The message of the LayoutError that `action` throws, or "".
template <class Action>
std::string refusal_of(const Action& action) {
  try {
    action();
  } catch (const LayoutError& error) {
    return error.what();
  }
  return {};
}

std::shared_ptr<const Sharding> halves() {
  return make_compact_sharding({{2}, {0, 1}}, {shard(0)});
}

// Ids travel between ranks and maps: the same names must give the same ids, however they came.
TEST(ShardMap, IdsFollowTheOrderOfNames) {
  const ShardMap map({entry("b", {2}, halves()), entry("a", {2}, halves())});

  EXPECT_EQ(map.find("a"), TensorId{0});
  EXPECT_EQ(map.find("b"), TensorId{1});
  EXPECT_EQ(map.find("ab").value, -1);
  EXPECT_EQ(map.tensor(TensorId{1}).name, "b");
}

// Nothing fails where build passes over an axis; ranks along it would drift apart unseen.
TEST(ShardMap, TellsTheAxesThatCutNoTensor) {
  const Layout layout = Layout::parse("pp=2,tp=2");
  const std::vector<int> ranks{0, 1, 2, 3};
  const auto tp_only = [] {
    return make_compact_sharding({{2, 2}, {0, 1, 2, 3}}, {replicate(), shard(0)});
  };
  const ShardMap whole({entry("a", {4}, make_replicated_sharding(ranks))});
  const ShardMap by_tp(
      {entry("a", {4}, make_replicated_sharding(ranks)), entry("b", {4}, tp_only())});
  const ShardMap by_pp({entry("a", {4}, make_replicated_sharding({0, 1})),
                        entry("b", {4}, make_replicated_sharding({2, 3}))});

  EXPECT_EQ(axes_without_cut(whole, layout, ranks), (std::vector<Axis>{Axis::kPp, Axis::kTp}));
  EXPECT_EQ(axes_without_cut(by_tp, layout, ranks), std::vector<Axis>{Axis::kPp});
  EXPECT_EQ(axes_without_cut(by_pp, layout, ranks), std::vector<Axis>{Axis::kTp});
  EXPECT_EQ(axes_without_cut(whole, Layout::parse("dp=4"), ranks),
            std::vector<Axis>{Axis::kDpShard});
  EXPECT_TRUE(axes_without_cut(whole, Layout::parse("dp_replicate=4"), ranks).empty());
}

// The layout's ranks may sit anywhere among the members, some of which idle.
TEST(ShardMap, AxesAreThoseOfTheLayoutWhereverItsRanksSit) {
  const std::vector<int> ranks{4, 1};
  const ShardMap map({entry("a", {4}, make_compact_sharding({{2}, {4, 1}}, {shard(0)}))});

  EXPECT_TRUE(axes_without_cut(map, Layout::parse("tp=2"), ranks).empty());
}

// Law 4 compares maps by hash: every difference that moves other bytes must show.
TEST(ShardMap, HashTellsMapsApart) {
  const auto hash_of = [](const std::string& name, Shape shape, const DType& dtype, auto sharding) {
    return ShardMap({{{name, shape, dtype}, sharding}}).hash();
  };
  const std::uint64_t base = hash_of("a", {4, 4}, kFloat, halves());

  EXPECT_EQ(base, hash_of("a", {4, 4}, kFloat, halves()));
  EXPECT_NE(base, hash_of("b", {4, 4}, kFloat, halves()));
  EXPECT_NE(base, hash_of("a", {4, 2}, kFloat, halves()));
  EXPECT_NE(base, hash_of("a", {4, 4}, DType{"bfloat16", 2}, halves()));
  EXPECT_NE(base, hash_of("a", {4, 4}, kFloat, make_replicated_sharding({0, 1})));
}

// Bytes of a rank are what memory predictions stand on: 5 rows of 3 floats over 2 ranks.
TEST(ShardMap, CountsTheBytesOfARank) {
  const ShardMap map({entry("a", {5, 3}, halves()), entry("b", {}, make_replicated_sharding({1}))});

  EXPECT_EQ(map.bytes_of_rank(0), 3 * 3 * 4);
  EXPECT_EQ(map.bytes_of_rank(1), 2 * 3 * 4 + 4);
  EXPECT_EQ(map.bytes_of_rank(7), 0);
  EXPECT_EQ(map.num_ranks(), 2);
}

// A tensor that its placements cannot cut is refused by name when the map is made.
TEST(ShardMap, RefusesATensorThatDoesNotFitItsSharding) {
  const auto columns = make_compact_sharding({{2}, {0, 1}}, {shard(1)});
  const auto table = make_table_sharding({{0, {{{{0}, {9}}, {0, {1}}}}}});
  const auto make = [](ShardMap::Entry item) { static_cast<void>(ShardMap({std::move(item)})); };

  EXPECT_NE(refusal_of([&] { make(entry("norm|param", {4}, columns)); }).find("'norm|param'"),
            std::string::npos);
  EXPECT_NE(refusal_of([&] { make(entry("t", {8}, table)); }).find("[0:9]"), std::string::npos);
  EXPECT_NE(refusal_of([&] { make(entry("t", {8, 1}, table)); }), "");
  EXPECT_NE(refusal_of([&] { make(entry("t", {-1}, halves())); }), "");
}

// A name stands for one logical tensor; two would be joined by chance.
TEST(ShardMap, RefusesANameTwice) {
  EXPECT_NE(refusal_of([] {
              static_cast<void>(ShardMap({entry("w", {2}, halves()), entry("w", {2}, halves())}));
            }).find("'w'"),
            std::string::npos);
}

// The live objects are the truth: extents and strides must be those that the map computes, on every
// rank, empty shards included.
TEST(ProveLive, AcceptsWhatTheMapSays) {
  const ShardMap map({entry("a", {5, 3}, make_compact_sharding({{4}, {0, 1, 2, 3}}, {shard(0)})),
                      entry("step", {}, make_replicated_sharding({0}))});
  const TensorId a = map.find("a");
  const TensorId step = map.find("step");

  EXPECT_NO_THROW(prove_live(map, 0, std::vector<LiveTensor>{{a, {2, 3}, {3, 1}}, {step, {}, {}}}));
  EXPECT_NO_THROW(prove_live(map, 2, std::vector<LiveTensor>{{a, {1, 3}, {99, 1}}}));
  EXPECT_NO_THROW(prove_live(map, 3, std::vector<LiveTensor>{{a, {0, 3}, {3, 1}}}));
  EXPECT_NO_THROW(prove_live(map, 9, {}));
}

// Each of these would send wrong bytes, or bytes out of bounds, without any other sign.
TEST(ProveLive, RefusesEveryDifferenceAndNamesTheTensor) {
  const ShardMap map({entry("a|param", {5, 3}, halves())});
  const TensorId a = map.find("a|param");
  const auto refusal = [&map](int rank, const std::vector<LiveTensor>& live) {
    return refusal_of([&] { prove_live(map, rank, live); });
  };
  const std::vector<std::string> texts{refusal(0, {{a, {2, 3}, {3, 1}}}),  // extent
                                       refusal(0, {{a, {3, 3}, {1, 3}}}),  // strides
                                       refusal(0, {{a, {9}, {1}}}),        // dimensions
                                       refusal(0, {{a, {3, 3}, {3}}}),     // strides missing
                                       refusal(0, {}),                     // tensor missing
                                       refusal(2, {{a, {3, 3}, {3, 1}}}),  // not in the map
                                       refusal(1, {{a, {2, 3}, {3, 1}}, {a, {2, 3}, {3, 1}}})};

  for (const std::string& text : texts) {
    EXPECT_NE(text.find("'a|param'"), std::string::npos) << text;
  }
  EXPECT_NE(texts[0].find("map: shape [3, 3]"), std::string::npos) << texts[0];
  EXPECT_NE(texts[0].find("live: shape [2, 3]"), std::string::npos) << texts[0];
}

// Flat buffers hold more than the tensor (padding, neighbours): fragments must lie inside them.
TEST(ProveLive, ChecksThatTableFragmentsLieInTheirBuffer) {
  const std::vector<std::int64_t> bounds{0, 7, 12};
  const std::vector<std::int64_t> offsets{0, 10};
  const ShardMap map(
      {entry("w", {3, 4}, make_flat_sharding({3, 4}, std::vector{0, 1}, bounds, offsets))});
  const TensorId w = map.find("w");

  EXPECT_NO_THROW(prove_live(map, 1, std::vector<LiveTensor>{{w, {15}, {1}}}));
  EXPECT_THROW(prove_live(map, 1, std::vector<LiveTensor>{{w, {14}, {1}}}), LayoutError);
  EXPECT_THROW(prove_live(map, 1, std::vector<LiveTensor>{{w, {15}, {2}}}), LayoutError);
}

// A plain tensor that is stored transposed is one fragment with its own strides.
TEST(ProveLive, ComparesTheStridesOfASingleFragment) {
  const ShardMap map(
      {entry("w", {3, 4}, make_table_sharding({{0, {{{{0, 0}, {3, 4}}, {0, {1, 3}}}}}}))});
  const TensorId w = map.find("w");

  EXPECT_NO_THROW(prove_live(map, 0, std::vector<LiveTensor>{{w, {3, 4}, {1, 3}}}));
  EXPECT_THROW(prove_live(map, 0, std::vector<LiveTensor>{{w, {3, 4}, {4, 1}}}), LayoutError);
}

// Law 2: an element without an owner is found before any byte moves, and named by its box.
TEST(ProveCoverage, NamesTheBoxThatNobodyHolds) {
  const auto with_hole = make_table_sharding(
      {{0, {{{{0, 0}, {2, 4}}, {0, {4, 1}}}}}, {1, {{{{3, 0}, {4, 4}}, {0, {4, 1}}}}}});
  const ShardMap map({entry("good", {4, 4}, halves()), entry("holed", {4, 4}, with_hole)});
  const std::string text = refusal_of([&map] { prove_coverage(map); });

  EXPECT_NE(text.find("'holed'"), std::string::npos) << text;
  EXPECT_NE(text.find("[2:3, 0:4]"), std::string::npos) << text;
}

// What is fetched from elsewhere is exactly what nobody has: all of it, and nothing twice.
TEST(HolesOf, AreTheBoxesThatNobodyHolds) {
  const auto with_holes = make_table_sharding(
      {{0, {{{{1, 0}, {2, 4}}, {0, {4, 1}}}}}, {1, {{{{3, 0}, {4, 2}}, {0, {4, 1}}}}}});
  const ShardMap map({entry("good", {4, 4}, halves()), entry("holed", {4, 4}, with_holes)});
  const std::vector<Hole> holes = holes_of(map);

  ASSERT_EQ(holes.size(), 1U);
  EXPECT_EQ(map.tensor(holes[0].id).name, "holed");
  EXPECT_EQ(holes[0].boxes,
            (std::vector<Box>{{{0, 0}, {1, 4}}, {{2, 0}, {3, 4}}, {{3, 2}, {4, 4}}}));
}

// Replicas, empty tensors, scalars and shards that overlap between ranks are all covered.
TEST(ProveCoverage, AcceptsMapsWithoutHoles) {
  const auto overlapping =
      make_table_sharding({{0, {{{{0}, {5}}, {0, {1}}}}}, {1, {{{{3}, {8}}, {0, {1}}}}}});
  const ShardMap map({entry("cut", {5, 3}, halves()),
                      entry("empty", {0, 3}, halves()),
                      entry("overlapping", {8}, overlapping),
                      entry("scalar", {}, make_replicated_sharding({1}))});

  EXPECT_NO_THROW(prove_coverage(map));
}

/// A sharding that breaks the promise: rank 0 holds rows 1 twice.
class DoubleSharding final : public Sharding {
 public:
  [[nodiscard]] std::vector<Fragment> fragments(const Shape& /*shape*/,
                                                int /*rank*/) const override {
    return {{{{0}, {2}}, {0, {1}}}, {{{1}, {4}}, {2, {1}}}};
  }
  [[nodiscard]] std::vector<OwnedBox> owned_boxes(const Shape& /*shape*/) const override {
    return {{{{0}, {2}}, {0}}, {{{1}, {4}}, {0}}};
  }
  [[nodiscard]] std::vector<int> ranks() const override { return {0}; }
  [[nodiscard]] std::uint64_t hash() const override { return 1; }
  [[nodiscard]] std::string misfit(const Shape& /*shape*/) const override { return {}; }
};

// Fragments of one rank that overlap would make one of its two copies stale.
TEST(ProveCoverage, RefusesARankThatHoldsAnElementTwice) {
  const ShardMap map({entry("w", {4}, std::make_shared<DoubleSharding>())});
  const std::string text = refusal_of([&map] { prove_coverage(map); });

  EXPECT_NE(text.find("rank 0"), std::string::npos) << text;
  EXPECT_NE(text.find("overlap"), std::string::npos) << text;
}

}  // namespace
}  // namespace dynatrain
