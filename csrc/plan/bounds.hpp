#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <cstdint>
#include <vector>

namespace dynatrain {

/// Elements of `needed` that `held` does not cover; the fragments of each list are disjoint. Works
/// on volumes alone and knows nothing of cells, so that it can judge a plan (law 3).
[[nodiscard]] std::int64_t lacking_elems(const std::vector<Fragment>& held,
                                         const std::vector<Fragment>& needed);

}  // namespace dynatrain
