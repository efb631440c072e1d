#pragma once

#include "dynatrain/geometry/box.hpp"

#include <vector>

namespace dynatrain {

/// Returns the same elements in as few boxes as joining neighbours, dimension after dimension from
/// the last one, gives; sorted. Equal sets of boxes give equal results.
/// Shapes   the boxes are disjoint and of one rank.
/// Cost     O(R n log n).
[[nodiscard]] std::vector<Box> merge_neighbours(std::vector<Box> boxes);

}  // namespace dynatrain
