#pragma once

#include "dynatrain/layout/placement.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <span>
#include <string>

namespace dynatrain {

/// Text for messages: "rank 3", "ranks 0, 2, 5", the first eight and a count when there are more.
[[nodiscard]] std::string describe_ranks(std::span<const int> ranks);
/// "mesh [2, 2] of ranks 0, 1, 2, 3".
[[nodiscard]] std::string describe(const Mesh& mesh);
/// "(Shard(0), Replicate)".
[[nodiscard]] std::string describe(std::span<const Placement> placements);
/// "float32 [4, 16]".
[[nodiscard]] std::string describe(const LogicalTensor& tensor);

/// Throws LayoutError: what was refused, why, and what to do; says that nothing was moved.
[[noreturn]] void refuse_map(const std::string& what,
                             const std::string& why,
                             const std::string& cure);

}  // namespace dynatrain
