#include "torch/streaming_run.hpp"

#include <numeric>
#include <span>

namespace dynatrain {
namespace {

std::int64_t sum_of(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

}  // namespace

Storages NamedStorages::by_id(const ShardMap& map) const {
  Storages found{.of_tensor = std::vector<int>(map.num_tensors(), Storages::kNone),
                 .size_bytes = held.size_bytes};
  for (const auto& [name, place] : of_tensor) {
    found.of_tensor[map.find(name).index()] = place.first;
  }
  return found;
}

std::vector<std::int64_t> NamedStorages::offsets_by_id(const ShardMap& map) const {
  std::vector<std::int64_t> offsets(map.num_tensors());
  for (const auto& [name, place] : of_tensor) {
    offsets[map.find(name).index()] = place.second;
  }
  return offsets;
}

StreamingRun::StreamingRun(const Schedule& schedule,
                           std::pair<const ShardMap&, const ShardMap&> maps,
                           std::span<const int> last_reads_of_all,
                           std::pair<NamedStorages, NamedStorages> storages,
                           const std::vector<int>& kept,
                           Watermark& watermark)
    : target_(storages.second.by_id(maps.second)),
      plan_(make_stream_plan(
          schedule, last_reads_of_all, storages.first.by_id(maps.first), kept, target_)),
      target_offset_bytes_(storages.second.offsets_by_id(maps.second)),
      source_bytes_(sum_of(storages.first.held.size_bytes)),
      memory_(std::move(storages.first.held), std::move(storages.second.held)),
      watermark_(watermark) {}

Streaming StreamingRun::streaming() {
  return {.plan = plan_,
          .target = target_,
          .target_offset_bytes = target_offset_bytes_,
          .memory = memory_,
          .watermark = watermark_};
}

}  // namespace dynatrain
