#include "base/clipped.hpp"

#include <gtest/gtest.h>

namespace dynatrain {
namespace {

// Half a character is no text: Python raises where it is told one.
TEST(Clipped, EndsWithAWholeCharacter) {
  EXPECT_EQ(clipped("abc", 3), "abc");
  EXPECT_EQ(clipped("abcd", 3), "abc");
  EXPECT_EQ(clipped("a\u00e9", 2), "a");
  EXPECT_EQ(clipped("a\u00e9b", 3), "a\u00e9");
  EXPECT_EQ(clipped("\U0001f600", 3), "");
}

}  // namespace
}  // namespace dynatrain
