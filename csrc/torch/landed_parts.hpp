#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include "torch/state_table.hpp"
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>

namespace dynatrain {

/// Where each tensor of this rank's target lies, by name, and how many bytes there are from there
/// on.
using PlacesByName = std::map<std::string, std::pair<std::uintptr_t, std::int64_t>>;

/// What the first stages of some schedules have brought to this rank's target, by explicit boxes
/// where they lie in its tensors. Schedules are of lanes: no two have a tensor in common.
///
/// Ownership  not owning: the tensors must outlive every use of the table.
/// Errors     InternalError where `map` is not that of their target, or a tensor lies nowhere.
/// Cost       O(parts of these stages).
[[nodiscard]] StateTable landed_parts(
    std::span<const std::pair<const Schedule*, int>> schedules_and_stages,
    const ShardMap& map,
    const PlacesByName& places);

}  // namespace dynatrain
