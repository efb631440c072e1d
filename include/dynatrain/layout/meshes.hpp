#pragma once

#include "dynatrain/layout/layout.hpp"
#include "dynatrain/layout/placement.hpp"

namespace dynatrain {

/// The ranks of one pipeline rank as a mesh: the axes of the layout's order without pp, those of
/// one rank too.
///
/// Errors   LayoutError when there is no such pipeline rank.
/// Cost     O(world size).
[[nodiscard]] Mesh stage_mesh(const Layout& layout, int pp_rank);

/// The same ranks as the mesh that experts lie on: (dp_replicate, efsdp, ep, etp).
[[nodiscard]] Mesh expert_mesh(const Layout& layout, int pp_rank);

}  // namespace dynatrain
