// The hashes of fragments that ranks tell each other, and what comes of comparing them.
#include "dynatrain/fingerprint/fingerprint.hpp"

#include "fuzz/target.hpp"
#include "torch/fragment_hash_codec.hpp"
#include <array>

namespace dynatrain::fuzz {

std::vector<std::string> seeds() {
  const std::vector<FragmentHash> hashes{{TensorId(0), {{0, 0}, {2, 3}}, 7},
                                         {TensorId(0), {{2, 0}, {4, 3}}, 8}};
  const std::vector<FragmentHash> scalar{{TensorId(0), {}, 9}};
  return {encode_hashes(hashes), encode_hashes(scalar)};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  const ShardMap map({{{"a|param", {4, 3}, {"float32", 4}}, make_replicated_sharding({0, 1})}});
  std::vector<FragmentHash> read;
  const std::string_view bytes = fuzz::text_of(data, size);
  if (!fuzz::is_taken([&] { read = decode_hashes(bytes, map.num_tensors()); })) {
    return 0;
  }
  fuzz::expect(encode_hashes(read) == bytes, "hashes have one spelling");
  const std::array<std::vector<FragmentHash>, 2> of_rank{
      std::vector<FragmentHash>{{TensorId(0), {{0, 0}, {2, 3}}, 1}}, read};
  static_cast<void>(fuzz::is_taken([&] { static_cast<void>(compare_replicas(map, of_rank)); }));
  return 0;
}
