// What ranks tell of the last reads of their sources comes from other ranks.
#include "fuzz/target.hpp"
#include "schedule/last_reads_codec.hpp"
#include <algorithm>
#include <array>

namespace dynatrain::fuzz {

std::vector<std::string> seeds() {
  return {encode_last_reads(std::array<int, 0>{}),
          encode_last_reads(std::array{-1, -1, 0, 1, 1, 1, 2}),
          encode_last_reads(std::array{5, 5, 5, -1, -1, 7, 7})};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  constexpr std::size_t kNumTensors = 7;
  const std::string given(fuzz::text_of(data, size));
  const std::string own = encode_last_reads(std::array{0, 1, 2, 3, 2, 1, 0});
  std::vector<int> read;
  if (!fuzz::is_taken([&] { read = decode_last_reads(given, kNumTensors); })) {
    return 0;
  }
  fuzz::expect(decode_last_reads(encode_last_reads(read), kNumTensors) == read, "it is read back");
  const std::string largest = largest_last_reads(std::array{given, own});
  const std::vector<int> own_reads = decode_last_reads(own, kNumTensors);
  const std::vector<int> of_both = decode_last_reads(largest, kNumTensors);
  for (std::size_t i = 0; i < kNumTensors; ++i) {
    fuzz::expect(of_both[i] == std::max(read[i], own_reads[i]), "the larger one of each tensor");
  }
  return 0;
}
