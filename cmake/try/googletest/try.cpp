#include <gtest/gtest.h>

TEST(Try, IsLinked) {
  EXPECT_TRUE(true);
}
