#pragma once

#include "dynatrain/execution/stream.hpp"
#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <pybind11/pybind11.h>

#include "torch/streamed_tensors.hpp"
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {

/// One side's storages as Python gives them: the objects and their sizes, and for each tensor of
/// this rank, by name, the storage that it lies in and where in it it begins, in bytes.
struct NamedStorages {
  StreamedTensors::Side held;
  std::map<std::string, std::pair<int, std::int64_t>> of_tensor;

  [[nodiscard]] Storages by_id(const ShardMap& map) const;
  [[nodiscard]] std::vector<std::int64_t> offsets_by_id(const ShardMap& map) const;
};

/// What one lane of a switch streams: its plan in time, and the memory.
class StreamingRun {
 public:
  /// `kept` are source storages that are not freed. Needs the GIL.
  /// Errors   InternalError as make_stream_plan().
  StreamingRun(const Schedule& schedule,
               std::pair<const ShardMap&, const ShardMap&> maps,
               std::span<const int> last_reads_of_all,
               std::pair<NamedStorages, NamedStorages> storages,
               const std::vector<int>& kept,
               Watermark& watermark);

  /// What source and target hold together at most, and the source alone; in bytes.
  [[nodiscard]] std::int64_t peak_bytes() const { return plan_.peak_bytes; }
  [[nodiscard]] std::int64_t source_bytes() const { return source_bytes_; }
  /// For one run, of which this is to outlive the end.
  [[nodiscard]] Streaming streaming();

 private:
  Storages target_;
  StreamPlan plan_;
  std::vector<std::int64_t> target_offset_bytes_;
  std::int64_t source_bytes_;
  StreamedTensors memory_;
  Watermark& watermark_;
};

}  // namespace dynatrain
