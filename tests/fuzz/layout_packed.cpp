// Packed states of two ranks in one buffer, as peers and files tell of them.
#include "dynatrain/layout/packing.hpp"

#include "fuzz/published.hpp"
#include "fuzz/target.hpp"
#include <array>

namespace dynatrain::fuzz {
namespace {

void check_joined(const std::vector<Descriptor>& joined) {
  for (const Descriptor& descriptor : joined) {
    std::vector<Box> boxes;
    for (const Fragment& fragment : descriptor.fragments) {
      expect(fragment.view.offset_elems >= 0, "no offset is negative");
      boxes.push_back(fragment.box);
    }
    expect(!first_overlap(boxes).has_value(), "a rank holds every element once");
  }
}

}  // namespace

std::vector<std::string> seeds() {
  const Descriptor whole{{"a|param", {4, 4}, {"float32", 4}}, {}, {}, {}};
  const std::string blob = encode_descriptors(make_packing({&whole, 1}, 0).held);
  const std::string body = blob.substr(kFirstLine.size(), blob.size() - kFirstLine.size() - 8);
  std::vector<std::string> all{static_cast<char>(body.size()) + body + body};
  for (const std::string& each : published_bodies()) {
    all.push_back(static_cast<char>(each.size()) + each + body);
  }
  return all;
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  fuzz::Draws draws(fuzz::text_of(data, size));
  const auto first_bytes = static_cast<std::size_t>(draws.number(0, 255));
  const std::string first = fuzz::published(draws.rest().substr(0, first_bytes));
  const std::string second =
      fuzz::published(draws.rest().substr(std::min(first_bytes, draws.rest().size())));
  const std::array<PackedShare, 2> shares{PackedShare{first, 0}, PackedShare{second, 128}};
  static_cast<void>(fuzz::is_taken([&] { fuzz::check_joined(join_packed(shares)); }));
  return 0;
}
