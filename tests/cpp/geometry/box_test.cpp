#include "dynatrain/geometry/box.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "geometry/elements.hpp"
#include <algorithm>

namespace dynatrain {
namespace {

using testing::all_coordinates;
using testing::Coordinate;
using testing::covers;
using testing::random_box;
using testing::random_extents;
using testing::times_covered;

constexpr int kRounds = 400;

// A tensor with more dimensions must be refused at the door, not cut off.
TEST(Dims, RefusesMoreThanKMaxDims) {
  const std::vector<std::int64_t> nine(9, 1);

  EXPECT_THROW(Dims{std::span<const std::int64_t>(nine)}, LayoutError);
}

// Sorted lists of boxes are the same on every rank only if the order is by value, then length.
TEST(Dims, AreOrderedByValueThenLength) {
  EXPECT_LT((Dims{1, 2}), (Dims{1, 3}));
  EXPECT_LT((Dims{1}), (Dims{1, 0}));
  EXPECT_EQ((Dims{4, 2}), (Dims{4, 2}));
  EXPECT_EQ((Dims{4, 16}.to_string()), "[4, 16]");
}

// An empty tensor may have extents whose product fits nowhere; it is still just empty.
TEST(NumElements, IsZeroWhenAnyExtentIsZero) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 40U;

  EXPECT_EQ(num_elements({kHuge, kHuge, 0}), 0);
  EXPECT_EQ(num_elements({}), 1);
  EXPECT_THROW(static_cast<void>(num_elements({kHuge, kHuge})), LayoutError);
}

// Two shards of a 4x4 tensor meet at row 2. If both claimed it, the plan would send that row twice.
TEST(BoxIntersect, AdjacentShardsShareNoElement) {
  const Box upper_rows{{0, 0}, {2, 4}};
  const Box lower_rows{{2, 0}, {4, 4}};

  EXPECT_EQ(intersect(upper_rows, lower_rows), std::nullopt);
}

// A step counter is a 0-d tensor: its box has no dimension and one element, held or not at all.
TEST(BoxIntersect, ScalarsShareTheirOneElement) {
  const Box scalar = Box::whole({});

  EXPECT_EQ(scalar.num_elements(), 1);
  EXPECT_FALSE(scalar.empty());
  EXPECT_EQ(intersect(scalar, scalar), scalar);
  EXPECT_TRUE(subtract(scalar, scalar).empty());
  EXPECT_TRUE(uncovered(scalar, {}).size() == 1);
}

// Boxes of two tensors mixed up would give a plausible, wrong answer.
TEST(BoxIntersect, RefusesBoxesOfDifferentRank) {
  EXPECT_THROW(static_cast<void>(intersect({{0}, {1}}, {{0, 0}, {1, 1}})), LayoutError);
  EXPECT_THROW(static_cast<void>(contains({{0}, {1}}, {{0, 0}, {1, 1}})), LayoutError);
}

// Intersection, containment and difference decide every byte of a switch: each element counts.
TEST(BoxProperty, SetOperationsAgreeWithElements) {
  for (std::uint64_t seed = 0; seed < kRounds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto extents = random_extents(random);
    const Box a = random_box(random, extents);
    const Box b = random_box(random, extents);
    const auto shared = intersect(a, b);
    const std::vector<Box> rest = subtract(a, b);
    bool b_is_inside = true;
    std::vector<std::int64_t> field(extents);
    std::ranges::for_each(field, [](auto& extent) { extent = 2 * extent + 4; });
    for (const Coordinate& at : all_coordinates(field)) {
      const bool in_both = covers(a, at) && covers(b, at);
      ASSERT_EQ(shared && covers(*shared, at), in_both);
      ASSERT_EQ(times_covered(rest, at), covers(a, at) && !covers(b, at) ? 1 : 0);
      b_is_inside = b_is_inside && (!covers(b, at) || covers(a, at));
    }
    EXPECT_EQ(contains(a, b), b_is_inside);
    EXPECT_LE(rest.size(), 2 * extents.size());
    EXPECT_TRUE(std::ranges::is_sorted(rest));
  }
}

// The coverage proof (law 2) is only as good as this: a hole of one element must be found, and a
// covered tensor must not be refused.
TEST(BoxProperty, UncoveredIsExactlyWhatNoBoxCovers) {
  for (std::uint64_t seed = 0; seed < kRounds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto extents = random_extents(random);
    std::vector<Box> boxes(random() % 8);
    std::ranges::generate(boxes, [&] { return random_box(random, extents); });
    const std::vector<Box> holes = uncovered(Box::whole(testing::dims_of(extents)), boxes);
    for (const Coordinate& at : all_coordinates(extents)) {
      ASSERT_EQ(times_covered(holes, at), times_covered(boxes, at) == 0 ? 1 : 0);
    }
    EXPECT_TRUE(std::ranges::is_sorted(holes));
    EXPECT_TRUE(std::ranges::none_of(holes, &Box::empty));
  }
}

// A message that lists a missing shard row by row would hide how large the hole is.
TEST(Uncovered, ReportsOneHoleAsOneBox) {
  const std::vector<Box> columns{{{0, 0}, {8, 3}}, {{2, 5}, {3, 8}}};
  const std::vector<Box> expected{{{0, 3}, {2, 8}}, {{2, 3}, {3, 5}}, {{3, 3}, {8, 8}}};

  EXPECT_EQ(uncovered(Box::whole({8, 8}), columns), expected);
}

// A rank whose fragments overlap would receive some elements twice.
TEST(BoxProperty, FirstOverlapFindsAnyPairThatSharesAnElement) {
  for (std::uint64_t seed = 0; seed < kRounds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto extents = random_extents(random);
    std::vector<Box> boxes(random() % 4);
    std::ranges::generate(boxes, [&] { return random_box(random, extents); });
    std::vector<std::int64_t> field(extents);
    std::ranges::for_each(field, [](auto& extent) { extent = 2 * extent + 4; });
    const bool overlaps = std::ranges::any_of(
        all_coordinates(field), [&](const auto& at) { return times_covered(boxes, at) > 1; });
    const auto found = first_overlap(boxes);
    ASSERT_EQ(found.has_value(), overlaps);
    EXPECT_TRUE(!found || intersect(found->first, found->second).has_value());
  }
}

}  // namespace
}  // namespace dynatrain
