#include "dynatrain/base/hash.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace dynatrain {
namespace {

std::uint64_t digest_of(const std::vector<std::string_view>& texts) {
  Hasher hasher;
  for (const std::string_view text : texts) {
    hasher.add(text);
  }
  return hasher.digest();
}

// Ranks of different machines and builds compare these numbers, so the function may never change
// unnoticed. The value was computed by a separate script from the definition.
TEST(Hasher, GivesTheSameDigestEverywhere) {
  Hasher hasher;
  hasher.add(std::uint64_t{1});
  hasher.add("tp");

  EXPECT_EQ(hasher.digest(), 0x7145fca6c6fb3bb0ULL);
}

// Lists that differ only in where one name ends must not look alike.
TEST(Hasher, KeepsTextsApart) {
  EXPECT_NE(digest_of({"ab", "c"}), digest_of({"a", "bc"}));
}

// A pair's moves are an ordered list: the same moves in another order are another plan.
TEST(Hasher, DependsOnTheOrder) {
  EXPECT_NE(digest_of({"a", "b"}), digest_of({"b", "a"}));
}

}  // namespace
}  // namespace dynatrain
