#include "dynatrain/layout/meshes.hpp"

#include "layout/describe.hpp"
#include <algorithm>
#include <string>
#include <tuple>

namespace dynatrain {
namespace {

/// Ranks of a pipeline rank, ascending.
std::vector<int> ranks_of_stage(const Layout& layout, int pp_rank) {
  if (pp_rank < 0 || pp_rank >= layout.size(Axis::kPp)) {
    refuse_map("there is no pipeline rank " + std::to_string(pp_rank),
               "pp is " + std::to_string(layout.size(Axis::kPp)),
               "ask for a pipeline rank of the layout");
  }
  std::vector<int> ranks;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    if (layout.coordinate(rank, Axis::kPp) == pp_rank) {
      ranks.push_back(rank);
    }
  }
  return ranks;
}

}  // namespace

Mesh stage_mesh(const Layout& layout, int pp_rank) {
  Mesh mesh{.shape = {}, .ranks = ranks_of_stage(layout, pp_rank)};
  for (const Axis axis : layout.spec().order) {
    if (axis != Axis::kPp) {
      mesh.shape.push_back(layout.size(axis));
    }
  }
  return mesh;
}

Mesh expert_mesh(const Layout& layout, int pp_rank) {
  const LayoutSpec& spec = layout.spec();
  Mesh mesh{.shape = {spec.dp_replicate, layout.efsdp_size(), spec.ep, spec.etp},
            .ranks = ranks_of_stage(layout, pp_rank)};
  std::ranges::sort(mesh.ranks, {}, [&layout](int rank) {
    const Layout::ExpertCoordinate at = layout.expert_coordinate(rank);
    return std::tuple(layout.coordinate(rank, Axis::kDpReplicate), at.efsdp, at.ep, at.etp);
  });
  return mesh;
}

}  // namespace dynatrain
