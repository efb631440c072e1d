#include "torch/streaming_run.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

namespace dynatrain {
namespace {

std::vector<std::int32_t> words_of(const std::string& encoded) {
  std::vector<std::int32_t> words(encoded.size() / sizeof(std::int32_t));
  std::memcpy(words.data(), encoded.data(), words.size() * sizeof(std::int32_t));
  return words;
}

std::string bytes_of(const std::vector<std::int32_t>& words) {
  std::string bytes(words.size() * sizeof(std::int32_t), '\0');
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

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

std::string encoded_last_reads(const Schedule& schedule, std::size_t num_tensors) {
  const std::vector<int> last = last_reads(schedule, num_tensors);
  return bytes_of({last.begin(), last.end()});
}

std::string largest_last_reads(const std::vector<std::string>& encoded) {
  std::vector<std::int32_t> largest = words_of(encoded.front());
  for (const std::string& each : encoded) {
    const std::vector<std::int32_t> words = words_of(each);
    DYNATRAIN_CHECK(words.size() == largest.size(),
                    "schedule: ranks read sources of different numbers of tensors");
    std::ranges::transform(largest, words, largest.begin(), [](std::int32_t a, std::int32_t b) {
      return std::max(a, b);
    });
  }
  return bytes_of(largest);
}

std::vector<int> decoded_last_reads(const std::string& encoded) {
  const std::vector<std::int32_t> words = words_of(encoded);
  return {words.begin(), words.end()};
}

}  // namespace dynatrain
