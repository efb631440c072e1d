#include "execution/process_runs.hpp"

#include <gtest/gtest.h>

namespace dynatrain {
namespace {

constexpr std::int64_t kElemBytes = 4;

/// Times as long as contiguous memory of the same size.
double slowness(const Shape& extents, const Strides& strides) {
  const Box box = Box::whole(extents);
  return static_cast<double>(cost_of_reading(box, strides, kElemBytes)) /
         static_cast<double>(box.num_elements() * kElemBytes);
}

// Whole parameters and slices of their first dimension: what nearly all of a state is.
TEST(CostOfReading, OfWhatIsContiguousIsItsBytes) {
  EXPECT_EQ(slowness({1000}, {1}), 1);
  EXPECT_EQ(slowness({}, {}), 1);
  EXPECT_EQ(slowness({128, 64}, {64, 1}), 1);
  EXPECT_EQ(slowness({128, 1, 64}, {64, 64, 1}), 1);
}

// A tensor-parallel slice of the last dimension: what lies between its rows, or a piece for each.
TEST(CostOfReading, OfRowsIsWhatLiesBetweenThemOrAPieceEach) {
  EXPECT_EQ(slowness({128, 64}, {256, 1}), 4);
  EXPECT_LT(slowness({128, 4096}, {1 << 20, 1}), 1.3);
  EXPECT_GT(slowness({128, 16}, {1 << 20, 1}), 60);
}

// Channels last, or the transpose of a small weight: many rows lie within a block that is read
// whole.
TEST(CostOfReading, OfAnotherOrderOfDimensionsIsLowOnlyWithinABlock) {
  EXPECT_EQ(slowness({64, 32}, {1, 64}), 1);
  EXPECT_EQ(slowness({8, 16, 3, 3}, {144, 1, 48, 16}), 1);
  EXPECT_GT(slowness({4096, 4096}, {1, 4096}), 1000);
}

TEST(CostOfReading, MessagesAreFasterForElementsFarApartAlone) {
  EXPECT_FALSE(are_messages_faster(4000, 4000));
  EXPECT_FALSE(are_messages_faster(16000, 4000));
  EXPECT_TRUE(are_messages_faster(40000, 4000));
}

}  // namespace
}  // namespace dynatrain
