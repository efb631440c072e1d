#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <vector>

namespace dynatrain {

/// Sorts by box and joins the ranks of equal boxes.
[[nodiscard]] std::vector<OwnedBox> group_by_box(std::vector<OwnedBox> owned);

}  // namespace dynatrain
