#include "schedule/last_reads_codec.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace dynatrain {
namespace {

std::vector<int> drawn(std::mt19937& random, std::size_t num_tensors) {
  std::vector<int> numbers;
  while (numbers.size() < num_tensors) {
    const auto num = std::min<std::size_t>(1 + random() % 5, num_tensors - numbers.size());
    numbers.insert(numbers.end(), num, static_cast<int>(random() % 4) - 1);
  }
  return numbers;
}

// A storage that is freed a stage too early is read after it is gone.
TEST(LastReadsCodec, TheLargestOfAllRanksIsThatOfEachTensor) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const std::size_t num_tensors = random() % 40;
    std::vector<int> expected(num_tensors, -1);
    std::vector<std::string> encoded;
    for (int rank = 0; rank < 4; ++rank) {
      const std::vector<int> numbers = drawn(random, num_tensors);
      encoded.push_back(encode_last_reads(numbers));
      std::ranges::transform(
          expected, numbers, expected.begin(), [](int a, int b) { return std::max(a, b); });
    }

    EXPECT_EQ(decode_last_reads(largest_last_reads(encoded), num_tensors), expected)
        << "seed " << seed;
  }
}

// Rank 0 has what all ranks tell: a number for each tensor was 4 bytes a tensor and rank.
TEST(LastReadsCodec, TensorsThatAreReadInTurnTakeNoMoreBytesThanStages) {
  std::vector<int> numbers;
  for (int stage = 0; stage < 64; ++stage) {
    numbers.insert(numbers.end(), 1000, stage);
  }

  EXPECT_EQ(encode_last_reads(numbers).size(), 64 * 8U);
}

// They come from other ranks: a count that is believed takes all memory.
TEST(LastReadsCodec, WhatIsOfAnotherNumberOfTensorsIsRefused) {
  const std::string two = encode_last_reads(std::vector<int>{3, 3});
  const std::string three = encode_last_reads(std::vector<int>{3, 3, 3});

  EXPECT_THROW((void)decode_last_reads(three, 2), TransportError);
  EXPECT_THROW((void)largest_last_reads(std::vector<std::string>{two, three}), TransportError);
  EXPECT_THROW((void)decode_last_reads(two.substr(1), 2), TransportError);
  EXPECT_THROW((void)decode_last_reads(std::string(8, '\0'), 0), TransportError);
  EXPECT_THROW((void)decode_last_reads(std::string(8, '\xff'), 2), TransportError);
}

}  // namespace
}  // namespace dynatrain
