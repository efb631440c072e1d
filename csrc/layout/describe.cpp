#include "layout/describe.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>

namespace dynatrain {
namespace {

constexpr std::size_t kMostRanks = 8;

}  // namespace

std::string describe_ranks(std::span<const int> ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  const std::size_t shown = std::min(ranks.size(), kMostRanks);
  for (std::size_t i = 0; i < shown; ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(ranks[i]);
  }
  if (shown < ranks.size()) {
    text += " and " + std::to_string(ranks.size() - shown) + " more";
  }
  return text;
}

std::string describe(const Mesh& mesh) {
  std::string text = "mesh [";
  for (std::size_t i = 0; i < mesh.shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(mesh.shape[i]);
  }
  return text + "] of " + describe_ranks(mesh.ranks);
}

std::string describe(std::span<const Placement> placements) {
  std::string text = "(";
  for (const Placement& placement : placements) {
    text += text.size() > 1 ? ", " : "";
    if (placement.kind == Placement::Kind::kReplicate) {
      text += "Replicate";
    } else if (placement.split_factor == 1) {
      text += "Shard(" + std::to_string(placement.dim) + ")";
    } else {
      text += "_StridedShard(" + std::to_string(placement.dim) +
              ", split_factor=" + std::to_string(placement.split_factor) + ")";
    }
  }
  return text + ")";
}

std::string describe(const LogicalTensor& tensor) {
  return tensor.dtype.name + " " + tensor.shape.to_string();
}

void refuse_map(const std::string& what, const std::string& why, const std::string& cure) {
  throw LayoutError("layout: " + what + "\n  " + why + "\n  nothing was moved\n  " + cure);
}

}  // namespace dynatrain
