#include "dynatrain/base/error.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <gtest/gtest.h>

#include "layout/index_oracle.hpp"
#include <algorithm>
#include <limits>
#include <map>
#include <set>

namespace dynatrain {
namespace {

using testing::Indices;
using testing::replicate;
using testing::shard;

/// Which element of the tensor (by its row-major number) lies at each element of a rank's buffer.
using Memory = std::map<std::int64_t, std::int64_t>;

/// Walks every fragment of a rank, element by element.
Memory memory_of(const Sharding& sharding, const Shape& shape, int rank) {
  Memory memory;
  for (const Fragment& fragment : sharding.fragments(shape, rank)) {
    const Shape extents = fragment.box.shape();
    for (std::int64_t i = 0; i < num_elements(extents); ++i) {
      std::int64_t rest = i;
      std::int64_t address = fragment.view.offset_elems;
      std::int64_t number = 0;
      std::int64_t weight = 1;
      for (int d = shape.rank() - 1; d >= 0; --d) {
        const std::int64_t step = rest % extents[d];
        rest /= extents[d];
        address += step * fragment.view.strides[d];
        number += (fragment.box.begin[d] + step) * weight;
        weight *= shape[d];
      }
      EXPECT_TRUE(memory.try_emplace(address, number).second) << "address used twice";
    }
  }
  return memory;
}

/// The memory of a dense local tensor that holds `rows` x `columns` of a 2-D tensor.
Memory dense_memory(const Shape& shape, const Indices& rows, const Indices& columns) {
  Memory memory;
  for (const std::int64_t row : rows) {
    for (const std::int64_t column : columns) {
      memory.emplace(std::ssize(memory), row * shape[1] + column);
    }
  }
  return memory;
}

/// The same answers as explicit boxes.
std::shared_ptr<const Sharding> as_table(const Sharding& sharding, const Shape& shape) {
  std::map<int, std::vector<Fragment>> table;
  for (const int rank : sharding.ranks()) {
    table[rank] = sharding.fragments(shape, rank);
  }
  return make_table_sharding(std::move(table));
}

struct Case {
  Mesh mesh;
  std::vector<Placement> placements;
  Shape shape;
};

/// A random mesh with random ranks, and placements of a random small 2-D tensor.
Case random_case(std::mt19937_64& random) {
  Case item;
  int size = 1;
  for (std::uint64_t d = 0; d <= random() % 3; ++d) {
    item.mesh.shape.push_back(static_cast<int>(random() % 3) + 1);
    size *= item.mesh.shape.back();
    const auto dim = static_cast<int>(random() % 2);
    const auto factor = static_cast<std::int64_t>(random() % 4) + 1;
    item.placements.push_back(random() % 3 == 0 ? replicate()
                                                : shard(dim, random() % 2 == 0 ? factor : 1));
  }
  for (int rank = 0; rank < size; ++rank) {
    item.mesh.ranks.push_back(rank * 2 + 1);
  }
  std::shuffle(item.mesh.ranks.begin(), item.mesh.ranks.end(), random);
  item.shape = {static_cast<std::int64_t>(random() % 9), static_cast<std::int64_t>(random() % 9)};
  return item;
}

// The planner asks one side who owns a box and the other what a rank holds: the two answers of a
// sharding must be the same map, and compact and table must not differ.
TEST(ShardingProperty, OwnersFragmentsAndTableAgree) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const Case item = random_case(random);
    const auto compact = make_compact_sharding(item.mesh, item.placements);
    const auto table = as_table(*compact, item.shape);
    std::set<std::pair<Box, int>> held;
    for (const int rank : compact->ranks()) {
      const auto fragments = compact->fragments(item.shape, rank);
      ASSERT_TRUE(std::ranges::is_sorted(fragments, {}, &Fragment::box));
      ASSERT_EQ(table->fragments(item.shape, rank), fragments);
      for (const Fragment& fragment : fragments) {
        ASSERT_FALSE(fragment.box.empty());
        held.emplace(fragment.box, rank);
      }
    }
    const auto owned = compact->owned_boxes(item.shape);
    std::set<std::pair<Box, int>> owners;
    for (const OwnedBox& box : owned) {
      ASSERT_TRUE(std::ranges::is_sorted(box.ranks));
      for (const int rank : box.ranks) {
        owners.emplace(box.box, rank);
      }
    }
    ASSERT_EQ(owners, held);
    ASSERT_EQ(table->owned_boxes(item.shape), owned);
    ASSERT_EQ(table->ranks(), compact->ranks());
    ASSERT_TRUE(std::ranges::is_sorted(owned, {}, &OwnedBox::box));
  }
}

// Every element of a plain cut has as many owners as there are replicas: none is lost, none twice.
TEST(ShardingProperty, EveryElementHasOneOwnerPerReplica) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const Case item = random_case(random);
    int replicas = 1;
    for (std::size_t d = 0; d < item.placements.size(); ++d) {
      const bool is_replica = item.placements[d].kind == Placement::Kind::kReplicate;
      replicas *= is_replica ? item.mesh.shape[d] : 1;
    }
    const auto sharding = make_compact_sharding(item.mesh, item.placements);
    std::map<std::int64_t, int> owners;
    for (const int rank : sharding->ranks()) {
      for (const auto& [address, number] : memory_of(*sharding, item.shape, rank)) {
        ++owners[number];
      }
    }
    ASSERT_EQ(std::ssize(owners), num_elements(item.shape));
    ASSERT_TRUE(std::ranges::all_of(owners, [&](auto& o) { return o.second == replicas; }));
  }
}

// The local tensor is dense over its intervals; an address off by one row sends wrong bytes.
TEST(CompactSharding, LaysItsFragmentsDenselyInLocalOrder) {
  const Shape shape{10, 7};
  const auto sharding =
      make_compact_sharding({{2, 3}, {0, 1, 2, 3, 4, 5}}, {shard(0, 3), shard(1)});
  for (int rank = 0; rank < 6; ++rank) {
    const auto rows =
        testing::strided_part(testing::iota(10), 3, 2, static_cast<std::size_t>(rank / 3));
    const auto columns = testing::chunk(testing::iota(7), 3)[static_cast<std::size_t>(rank % 3)];
    EXPECT_EQ(memory_of(*sharding, shape, rank), dense_memory(shape, rows, columns)) << rank;
    EXPECT_EQ(sharding->local_shape(shape, rank), (Shape{std::ssize(rows), std::ssize(columns)}));
  }
}

// A step counter is 0-d and on every rank.
TEST(CompactSharding, ReplicatesScalars) {
  const auto sharding = make_replicated_sharding({3, 1});
  const std::vector<OwnedBox> expected{{Box::whole({}), {1, 3}}};

  EXPECT_EQ(sharding->owned_boxes({}), expected);
  EXPECT_EQ(sharding->fragments({}, 3), (std::vector<Fragment>{{Box::whole({}), {0, {}}}}));
  EXPECT_TRUE(sharding->fragments({}, 2).empty());
}

// A rank with an empty shard takes part, but owns nothing: 5 rows over 4 ranks leave none for one.
TEST(CompactSharding, KeepsRanksWithEmptyShards) {
  const auto sharding = make_compact_sharding({{4}, {0, 1, 2, 3}}, {shard(0)});

  EXPECT_EQ(sharding->ranks(), (std::vector{0, 1, 2, 3}));
  EXPECT_TRUE(sharding->fragments({5, 2}, 3).empty());
  EXPECT_EQ(sharding->owned_boxes({5, 2}).size(), 3U);
  EXPECT_EQ(sharding->local_shape({5, 2}, 3), (Shape{0, 2}));
}

// Equal hashes stand for equal plans, so what differs in any field must differ in the hash, and
// what is the same must not.
TEST(CompactSharding, HashTellsDifferentCutsApart) {
  const Mesh mesh{{2, 2}, {0, 1, 2, 3}};
  const Mesh other_ranks{{2, 2}, {0, 2, 1, 3}};
  const std::set<std::uint64_t> hashes{
      make_compact_sharding(mesh, {shard(0), replicate()})->hash(),
      make_compact_sharding(mesh, {replicate(), shard(0)})->hash(),
      make_compact_sharding(mesh, {shard(1), replicate()})->hash(),
      make_compact_sharding(mesh, {shard(0, 2), shard(0)})->hash(),
      make_compact_sharding(mesh, {shard(0), shard(0)})->hash(),
      make_compact_sharding(other_ranks, {shard(0), replicate()})->hash()};
  Placement odd_replica = replicate();
  odd_replica.dim = 5;

  EXPECT_EQ(hashes.size(), 6U);
  EXPECT_EQ(make_compact_sharding(mesh, {shard(0), odd_replica})->hash(),
            make_compact_sharding(mesh, {shard(0), replicate()})->hash());
}

// A gate/up weight fused along its rows is (2, ffn, hidden) to the map: TP takes rows of both
// halves, and the strides of the views find them in the fused local tensor.
TEST(CompactSharding, ExtraDimensionDescribesAFusedWeight) {
  const std::int64_t ffn = 6;
  const std::int64_t hidden = 3;
  const Shape logical{2, ffn, hidden};
  const auto sharding = make_compact_sharding({{2}, {0, 1}}, {shard(1)});
  // Rank 1 holds gate rows 3..5 and up rows 3..5, one behind the other: rows 3-5 and 9-11 fused.
  const Indices fused_rows{3, 4, 5, 9, 10, 11};

  EXPECT_EQ(memory_of(*sharding, logical, 1),
            dense_memory({2 * ffn, hidden}, fused_rows, testing::iota(hidden)));
}

// ZeRO-1 cuts the flat parameter anywhere; the shard is dense in its buffer from its offset on.
TEST(FlatSharding, HoldsItsRangeDenselyFromItsOffset) {
  const Shape shape{4, 5};
  const std::vector<int> ranks{2, 0, 1};
  const std::vector<std::int64_t> bounds{0, 7, 7, 18};
  const std::vector<std::int64_t> offsets{0, 0, 100};
  const auto sharding = make_flat_sharding(shape, ranks, bounds, offsets);
  Memory expected;
  for (std::int64_t i = 7; i < 18; ++i) {
    expected.emplace(100 + i - 7, i);
  }

  EXPECT_EQ(memory_of(*sharding, shape, 1), expected);
  EXPECT_TRUE(sharding->fragments(shape, 0).empty());
  EXPECT_EQ(sharding->ranks(), (std::vector{0, 1, 2}));
  EXPECT_LE(sharding->fragments(shape, 1).size(), 3U);
}

// Bounds that do not belong to the tensor would read past it.
TEST(FlatSharding, RefusesBoundsThatDoNotFit) {
  const std::vector<int> ranks{0, 1};
  const auto make = [&ranks](const std::vector<std::int64_t>& bounds,
                             const std::vector<std::int64_t>& offsets) {
    static_cast<void>(make_flat_sharding({3}, ranks, bounds, offsets));
  };

  EXPECT_THROW(make({0, 2, 4}, {0, 0}), LayoutError);
  EXPECT_THROW(make({0, 2, 1}, {0, 0}), LayoutError);
  EXPECT_THROW(make({0, 2}, {0, 0}), LayoutError);
  EXPECT_THROW(make({0, 2, 3}, {0}), LayoutError);
  EXPECT_THROW(make({0, 2, 3}, {0, -1}), LayoutError);
}

// A rank whose fragments overlap would hold an element in two places, and only one would be kept.
TEST(TableSharding, RefusesFragmentsThatOverlapOrDoNotFitTogether) {
  const Fragment rows{{{0, 0}, {2, 4}}, {0, {4, 1}}};
  const Fragment overlapping{{{1, 0}, {3, 4}}, {8, {4, 1}}};
  const Fragment flat{{{0}, {2}}, {0, {1}}};
  const Fragment backwards{{{2, 0}, {3, 4}}, {8, {-4, 1}}};

  EXPECT_THROW(static_cast<void>(make_table_sharding({{0, {rows, overlapping}}})), LayoutError);
  EXPECT_THROW(static_cast<void>(make_table_sharding({{0, {rows, flat}}})), LayoutError);
  EXPECT_THROW(static_cast<void>(make_table_sharding({{0, {backwards}}})), LayoutError);
  EXPECT_NO_THROW(static_cast<void>(make_table_sharding({{0, {rows}}, {1, {overlapping}}})));
}

// Strides come from peers: a product that wrapped around would be an address.
TEST(TableSharding, RefusesAViewThatReachesFurtherThanAnyBuffer) {
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  const auto make = [](const Fragment& fragment) {
    static_cast<void>(make_table_sharding({{0, {fragment}}}));
  };
  for (const View& view : {View{0, {huge, 1}},
                           View{0, {huge / 2 + 1, 1}},  // times 2 wraps to the lowest number
                           View{0, {huge / 24, 1}},
                           View{huge, {4, 1}}}) {
    EXPECT_THROW(make({{{0, 0}, {3, 4}}, view}), LayoutError) << view.strides.to_string();
  }
  EXPECT_THROW(make({{{-huge, 0}, {huge, 4}}, {0, {4, 1}}}), LayoutError);
  EXPECT_NO_THROW(make({{{0, 0}, {1, 4}}, {0, {huge, 1}}})) << "one row takes no step";
  EXPECT_NO_THROW(make({{{0, 0}, {3, 4}}, {huge / 64, {huge / 64, 1}}}));
}

// A tied embedding lives on the first and the last stage: one tensor, owners on both.
TEST(UnionSharding, JoinsTheOwnersOfATiedWeight) {
  const auto first_stage = make_compact_sharding({{2}, {0, 1}}, {shard(0)});
  const auto last_stage = make_replicated_sharding({4});
  const auto rows = make_compact_sharding({{2}, {2, 3}}, {shard(0)});
  const auto tied = make_union_sharding({rows, last_stage, first_stage});
  const std::vector<OwnedBox> expected{
      {{{0, 0}, {2, 3}}, {0, 2}}, {{{0, 0}, {4, 3}}, {4}}, {{{2, 0}, {4, 3}}, {1, 3}}};

  EXPECT_EQ(tied->owned_boxes({4, 3}), expected);
  EXPECT_EQ(tied->ranks(), (std::vector{0, 1, 2, 3, 4}));
  EXPECT_EQ(tied->fragments({4, 3}, 3), rows->fragments({4, 3}, 3));
  EXPECT_EQ(tied->hash(), make_union_sharding({first_stage, rows, last_stage})->hash());
  EXPECT_EQ(tied->local_shape({4, 3}, 4), (Shape{4, 3}));
}

// One rank in two parts would have two buffers for one tensor.
TEST(UnionSharding, RefusesARankInTwoParts) {
  EXPECT_THROW(static_cast<void>(make_union_sharding(
                   {make_replicated_sharding({0, 1}), make_replicated_sharding({1})})),
               LayoutError);
}

}  // namespace
}  // namespace dynatrain
