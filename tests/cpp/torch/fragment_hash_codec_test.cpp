#include "torch/fragment_hash_codec.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace dynatrain {
namespace {

std::string hashes_of(int tensor) {
  const std::array<FragmentHash, 1> hashes{{{TensorId(tensor), {{0, 2}, {4, 3}}, 7}}};
  return encode_hashes(hashes);
}

TEST(FragmentHashCodec, HashesComeBack) {
  const std::vector<FragmentHash> read = decode_hashes(hashes_of(1), 2);

  ASSERT_EQ(read.size(), 1U);
  EXPECT_EQ(read.front().tensor, TensorId(1));
  EXPECT_EQ(read.front().box, (Box{{0, 2}, {4, 3}}));
  EXPECT_EQ(read.front().hash, 7U);
}

// A peer's number was cut to 32 bits, and stood for another tensor; one that the map has not was
// told as a fault of this library.
TEST(FragmentHashCodec, ATensorThatTheMapHasNotIsRefused) {
  std::string cut = hashes_of(1);
  cut[4] = 1;  // the fifth byte of the tensor's number

  EXPECT_THROW(static_cast<void>(decode_hashes(cut, 2)), LayoutError);
  EXPECT_THROW(static_cast<void>(decode_hashes(hashes_of(2), 2)), LayoutError);
  EXPECT_THROW(static_cast<void>(decode_hashes(hashes_of(-1), 2)), LayoutError);
}

TEST(FragmentHashCodec, BytesThatAreCutShortAreRefused) {
  const std::string whole = hashes_of(0);
  for (std::size_t size = 1; size < whole.size(); ++size) {
    EXPECT_THROW(static_cast<void>(decode_hashes(whole.substr(0, size), 1)), LayoutError) << size;
  }
}

}  // namespace
}  // namespace dynatrain
