#include "torch/landed_parts.hpp"

#include "dynatrain/base/error.hpp"

#include "execution/fragment_finder.hpp"
#include "execution/part_pieces.hpp"
#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using Landed = std::map<std::size_t, std::vector<Fragment>>;

void add_stages(Landed& landed, const Schedule& schedule, int num_stages, const ShardMap& map) {
  FragmentFinder finder(map, schedule.rank);
  const auto add = [&](const Part& part) {
    const Fragment& whole = finder.find(part.tensor, part.box);
    for_each_piece(part, [&](const Box& piece, std::int64_t) {
      landed[part.tensor.index()].push_back({piece, sub_view(whole.box, whole.view, piece)});
    });
  };
  for (int k = 0; k < num_stages; ++k) {
    const Stage& stage = schedule.stages[static_cast<std::size_t>(k)];
    for (const StageMessage& message : stage.receives) {
      std::ranges::for_each(message.parts, add);
    }
    std::ranges::for_each(stage.locals, add);
  }
}

}  // namespace

StateTable landed_parts(std::span<const std::pair<const Schedule*, int>> schedules_and_stages,
                        const ShardMap& map,
                        const PlacesByName& places) {
  Landed landed;
  for (const auto& [schedule, num_stages] : schedules_and_stages) {
    add_stages(landed, *schedule, num_stages, map);
  }
  StateTable table;
  for (auto& [tensor, fragments] : landed) {
    const LogicalTensor& logical = map.tensor(TensorId(static_cast<std::int64_t>(tensor)));
    const auto place = places.find(logical.name);
    DYNATRAIN_CHECK(place != places.end(),
                    "torch: '" + logical.name + "' has landed in no tensor of this rank");
    const auto [address, size_bytes] = place->second;
    // Python hands addresses over as integers (UntypedStorage.data_ptr()).
    table.add({.tensor = logical, .mesh = {}, .placements = {}, .fragments = std::move(fragments)},
              {.base = reinterpret_cast<std::byte*>(address),  // NOLINT(performance-no-int-to-ptr)
               .local_shape = Shape{size_bytes / logical.dtype.size_bytes},
               .local_strides = Strides{1},
               .size_bytes = size_bytes});
  }
  return table;
}

}  // namespace dynatrain
