// The text of a layout comes from command lines, from JSON and from other ranks.
#include "dynatrain/layout/layout.hpp"

#include "fuzz/target.hpp"
#include <optional>

namespace dynatrain::fuzz {
namespace {

void ask_all(const Layout& layout) {
  const int last = layout.world_size() - 1;
  for (const Axis axis : {Axis::kPp, Axis::kDpReplicate, Axis::kDpShard, Axis::kCp, Axis::kTp}) {
    const int at = layout.coordinate(last, axis);
    expect(at == layout.size(axis) - 1, "the last rank is last along every axis");
  }
  const Layout::ExpertCoordinate expert = layout.expert_coordinate(last);
  expect(expert.efsdp < layout.efsdp_size() && expert.ep < layout.size(Axis::kEp),
         "the coordinates of experts are in range");
  if (is_taken([&] { static_cast<void>(layout.layers(0, 64)); })) {
    expect(std::ssize(layout.layers(0, 64)) == layout.size(Axis::kVpp), "one range a stage");
  }
}

}  // namespace

std::vector<std::string> seeds() {
  return {"dp=2,tp=2",
          "pp=2,vpp=2,stages=3:2:2:1",
          "dp_replicate=2, dp_shard=2 ,cp=1,order=tp:cp:dp_shard:dp_replicate:pp",
          "dp=4,tp=2,ep=2,etp=2",
          "pp=2147483647,tp=2147483647"};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  std::optional<Layout> read;
  if (!fuzz::is_taken([&] { read = Layout::parse(fuzz::text_of(data, size)); })) {
    return 0;
  }
  fuzz::expect(Layout::parse(read->to_string()) == *read, "the text form is read back");
  fuzz::ask_all(*read);
  return 0;
}
