#pragma once

#include "dynatrain/layout/placement.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// Why `placements` on a mesh of this shape cannot cut a tensor of `shape`; empty when they can.
[[nodiscard]] std::string cut_misfit(const Shape& shape,
                                     std::span<const int> mesh_shape,
                                     std::span<const Placement> placements);

/// The coordinate of place `index` of a row-major mesh.
[[nodiscard]] std::vector<int> mesh_coordinate(std::span<const int> mesh_shape, std::int64_t index);

}  // namespace dynatrain
