#include "dynatrain/geometry/view.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "geometry/elements.hpp"
#include <algorithm>

namespace dynatrain {
namespace {

using testing::all_coordinates;
using testing::Coordinate;

std::int64_t address_of(const View& view, const Coordinate& at) {
  std::int64_t address = view.offset_elems;
  for (std::size_t d = 0; d < at.size(); ++d) {
    address += at[d] * view.strides[static_cast<int>(d)];
  }
  return address;
}

/// A view of a random permutation of dimensions, with gaps.
View random_view(std::mt19937_64& random, const std::vector<std::int64_t>& extents) {
  std::vector<std::size_t> order(extents.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
  }
  std::shuffle(order.begin(), order.end(), random);
  if (random() % 2 == 0) {
    std::ranges::sort(order);
  }
  View view{static_cast<std::int64_t>(random() % 9),
            Dims::filled(static_cast<int>(extents.size()), 0)};
  std::int64_t stride = 1 + static_cast<std::int64_t>(random() % 2);
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    view.strides[static_cast<int>(*it)] = stride;
    stride *= std::max<std::int64_t>(extents[*it], 1) + static_cast<std::int64_t>(random() % 4 / 3);
  }
  return view;
}

// A move is a part of a fragment: its bytes must be those of the same elements of the fragment.
TEST(ViewProperty, SubViewPointsAtTheSameElements) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto extents = testing::random_extents(random);
    const Box outer{Dims::filled(static_cast<int>(extents.size()), 2), [&] {
                      Dims end = testing::dims_of(extents);
                      for (int d = 0; d < end.rank(); ++d) {
                        end[d] += 2;
                      }
                      return end;
                    }()};
    const View view = random_view(random, extents);
    const auto inner = intersect(outer, testing::random_box(random, extents));
    if (!inner) {
      continue;
    }
    const View part = sub_view(outer, view, *inner);
    for (const Coordinate& at : all_coordinates(extents)) {
      Coordinate global = at;
      Coordinate local = at;
      for (std::size_t d = 0; d < at.size(); ++d) {
        global[d] += 2;
        local[d] = global[d] - inner->begin[static_cast<int>(d)];
      }
      if (testing::covers(*inner, global)) {
        ASSERT_EQ(address_of(part, local), address_of(view, at));
      }
    }
  }
}

// A piece that sticks out of its fragment would copy a neighbour's bytes: our bug, so it throws.
TEST(SubView, RefusesABoxThatSticksOut) {
  EXPECT_THROW(static_cast<void>(sub_view({{0}, {4}}, {0, {1}}, {{2}, {5}})), InternalError);
}

// Direct messages skip the staging buffer when a run is dense; dense must mean exactly that.
TEST(ViewProperty, ContiguousMeansOneElementAfterTheOther) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto extents = testing::random_extents(random);
    const View view = random_view(random, extents);
    bool dense = true;
    std::int64_t next = view.offset_elems;
    for (const Coordinate& at : all_coordinates(extents)) {
      dense = dense && address_of(view, at) == next++;
    }
    ASSERT_EQ(is_contiguous(testing::dims_of(extents), view.strides), dense);
  }
}

// A collapsed copy must visit the same pairs of addresses in the same order: the part sums of the
// wire check count elements in that order.
TEST(ViewProperty, CollapseKeepsEveryPairOfAddressesInOrder) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto extents = testing::random_extents(random);
    const View src = random_view(random, extents);
    const View dst = random_view(random, extents);
    std::vector<std::pair<std::int64_t, std::int64_t>> expected;
    for (const Coordinate& at : all_coordinates(extents)) {
      expected.emplace_back(address_of(src, at), address_of(dst, at));
    }
    const StridedCopy copy = collapse(testing::dims_of(extents), src, dst);
    const auto values = copy.extents.values();
    std::vector<std::pair<std::int64_t, std::int64_t>> visited;
    for (const Coordinate& at : all_coordinates({values.begin(), values.end()})) {
      visited.emplace_back(address_of({copy.src_offset_elems, copy.src_strides}, at),
                           address_of({copy.dst_offset_elems, copy.dst_strides}, at));
    }
    ASSERT_EQ(visited, expected);
    EXPECT_GE(copy.extents.rank(), 1);
  }
}

// Rows that follow each other on both sides are one run: a memcpy instead of a loop.
TEST(Collapse, JoinsDimensionsThatAdvanceTogether) {
  const View dense{0, {20, 5, 1}};
  const View wide{7, {40, 5, 1}};

  const StridedCopy same = collapse({3, 4, 5}, dense, dense);
  const StridedCopy gapped = collapse({3, 4, 5}, dense, wide);

  EXPECT_EQ(same.extents, (Dims{60}));
  EXPECT_EQ(gapped.extents, (Dims{3, 20}));
  EXPECT_EQ(gapped.dst_strides, (Dims{40, 1}));
  EXPECT_EQ(gapped.dst_offset_elems, 7);
}

// Scalars and empty shards take the same code path as all others, so they need a shape to loop
// over.
TEST(Collapse, GivesScalarsOneElementAndEmptyShapesNone) {
  EXPECT_EQ(collapse({}, {3, {}}, {0, {}}).extents, (Dims{1}));
  EXPECT_EQ(collapse({4, 0}, {0, {1, 1}}, {0, {1, 1}}).extents, (Dims{0}));
}

}  // namespace
}  // namespace dynatrain
