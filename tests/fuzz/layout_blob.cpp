// What a rank publishes of its state. The input is what lies between the first line and the
// checksum, so that changes get past both.
#include "dynatrain/layout/packing.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include "fuzz/published.hpp"
#include "fuzz/target.hpp"
#include "layout/blob.hpp"

namespace dynatrain::fuzz {

std::vector<std::string> seeds() {
  return published_bodies();
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  const std::string bytes = fuzz::published(fuzz::text_of(data, size));
  Blob read;
  if (fuzz::is_taken([&] { read = decode_blob(bytes); })) {
    fuzz::expect(encode_blob(read) == bytes, "what is read has one spelling");
  }
  static_cast<void>(fuzz::is_taken([&] { read = decode_blob(fuzz::text_of(data, size)); }));
  return 0;
}
