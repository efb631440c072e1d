#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "geometry/elements.hpp"
#include <algorithm>

namespace dynatrain {
namespace {

using testing::all_coordinates;

// A flat optimizer shard must become the very elements it holds, in their order, in few boxes.
// Every range of every small shape is tried, so no seed is needed.
TEST(FlatRange, EveryRangeOfSmallTensorsIsExactlyItsElements) {
  const std::vector<std::vector<std::int64_t>> shapes{
      {}, {7}, {1, 5}, {3, 4}, {5, 1}, {2, 3, 4}, {3, 1, 2, 2}, {2, 2, 2, 3}, {0, 3}};
  for (const auto& extents : shapes) {
    const auto elements = all_coordinates(extents);
    const auto size = std::ssize(elements);
    for (std::int64_t begin = 0; begin <= size; ++begin) {
      for (std::int64_t end = begin; end <= size; ++end) {
        const auto boxes = flat_range_to_boxes(testing::dims_of(extents), {begin, end});
        std::vector<testing::Coordinate> reached;
        for (const Box& box : boxes) {
          std::ranges::copy_if(elements, std::back_inserter(reached), [&box](const auto& at) {
            return testing::covers(box, at);
          });
        }
        const std::vector<testing::Coordinate> expected(elements.begin() + begin,
                                                        elements.begin() + end);
        ASSERT_EQ(reached, expected)
            << testing::dims_of(extents).to_string() << " " << begin << ":" << end;
        ASSERT_LE(boxes.size(), std::max<std::size_t>(2 * extents.size(), 2) - 1);
      }
    }
  }
}

// The bound is met, so a table of flat shards can be sized by it: 2N-1 boxes and not one fewer.
TEST(FlatRange, NeedsAtMostTwoRankMinusOneBoxes) {
  EXPECT_EQ(flat_range_to_boxes({4, 4, 4}, {1, 63}).size(), 5U);
  EXPECT_EQ(flat_range_to_boxes({4, 4, 4}, {16, 48}).size(), 1U);
}

// Padding of a flat buffer lies behind the tensor; taking it for state would invent elements.
TEST(FlatRange, RefusesARangeOutsideTheTensor) {
  EXPECT_THROW(static_cast<void>(flat_range_to_boxes({2, 3}, {0, 7})), LayoutError);
  EXPECT_THROW(static_cast<void>(flat_range_to_boxes({2, 3}, {-1, 2})), LayoutError);
  EXPECT_THROW(static_cast<void>(flat_range_to_boxes({2, 3}, {4, 2})), LayoutError);
}

}  // namespace
}  // namespace dynatrain
