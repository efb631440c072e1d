#include "dynatrain/layout/shard_map.hpp"

#include "layout/blob.hpp"
#include "layout/describe.hpp"
#include <algorithm>
#include <utility>

namespace dynatrain {
namespace {

/// The index of `cut` in `cuts`, where it is put when it is new. Neighbours mostly share a cut.
std::int64_t index_of_cut(std::vector<BlobCut>& cuts, const Descriptor& descriptor) {
  const auto found = std::find_if(cuts.rbegin(), cuts.rend(), [&](const BlobCut& cut) {
    return cut.placements == descriptor.placements && cut.mesh == descriptor.mesh;
  });
  if (found != cuts.rend()) {
    return cuts.rend() - found - 1;
  }
  descriptor.mesh.check();
  cuts.push_back({descriptor.mesh, descriptor.placements});
  return std::ssize(cuts) - 1;
}

}  // namespace

std::string encode_descriptors(std::span<const Descriptor> descriptors) {
  std::vector<const Descriptor*> sorted(descriptors.size());
  std::ranges::transform(descriptors, sorted.begin(), [](const auto& d) { return &d; });
  std::ranges::sort(
      sorted, {}, [](const Descriptor* d) -> const std::string& { return d->tensor.name; });
  Blob blob;
  for (const Descriptor* descriptor : sorted) {
    const LogicalTensor& tensor = descriptor->tensor;
    if (!blob.tensors.empty() && blob.tensors.back().tensor.name == tensor.name) {
      refuse_map("cannot publish '" + tensor.name + "' twice",
                 "a name stands for one logical tensor",
                 "publish a tied weight under one of its names");
    }
    const bool is_cut = !descriptor->mesh.ranks.empty();
    if (is_cut && !descriptor->fragments.empty()) {
      refuse_map("cannot publish '" + tensor.name + "'",
                 "it has a mesh and explicit fragments as well",
                 "say in one way what this rank holds");
    }
    blob.tensors.push_back(
        {tensor, is_cut ? index_of_cut(blob.cuts, *descriptor) : -1, descriptor->fragments});
  }
  return encode_blob(blob);
}

}  // namespace dynatrain
