#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dynatrain {

/// Stages that pass between the last one that reads a source and the one before which it is freed:
/// by then every rank has landed it, and every rank has heard of that.
inline constexpr int kStagesUntilFreed = 4;

/// Blocks of memory behind the tensors of one rank. A block is taken and freed as a whole.
struct Storages {
  static constexpr int kNone = -1;

  std::vector<int> of_tensor;  ///< storage by tensor id; kNone where the rank holds nothing of it
  std::vector<std::int64_t> size_bytes;  ///< by storage
};

/// Of a map alone, where each tensor of a rank lies in a storage of its own, in order of ids.
/// Args     without  tensors that have none here, ascending.
/// Cost     the fragments of the rank.
[[nodiscard]] Storages storages_of(const ShardMap& map,
                                   int rank,
                                   std::span<const TensorId> without = {});

/// What happens to memory before a stage begins, in this order, and what is held while it runs.
struct StreamStage {
  std::vector<int> freed;  ///< source storages
  std::vector<int> taken;  ///< target storages
  std::int64_t held_bytes = 0;
};

/// When one rank takes the storages of its target and frees those of its source, so that both stand
/// side by side in parts alone (`stream`).
struct StreamPlan {
  std::vector<StreamStage> stages;
  /// Source storages that are freed when the last stage has landed on every rank.
  std::vector<int> freed_last;
  /// The most that source and target hold together, before the first stage too; staging is not
  /// among it.
  std::int64_t peak_bytes = 0;
};

/// The last stage in which this rank sends or copies anything of each tensor, by tensor id; -1
/// where it sends and copies nothing. The largest over all ranks is what make_stream_plan() takes:
/// a rank that holds a part and sends none of it keeps it until the sender's has landed, too.
/// Cost     O(parts).
[[nodiscard]] std::vector<int> last_reads(const Schedule& schedule, std::size_t num_tensors);

/// Places what `schedule` reads and writes in time: a storage is taken before the first stage that
/// writes to it and freed kStagesUntilFreed stages after the last one that reads it anywhere.
///
/// Args     last_reads_of_all  as last_reads() has it, the largest over all ranks.
///          kept   source storages that serve the target as they are; never freed.
///          target  without what lies in `kept`: kNone there.
/// Errors   InternalError when this rank reads a tensor that lies in none of its storages.
/// Cost     O(parts + storages + stages).
/// Source   own; docs/design/schedule.md, "Source and target in parts".
[[nodiscard]] StreamPlan make_stream_plan(const Schedule& schedule,
                                          std::span<const int> last_reads_of_all,
                                          const Storages& source,
                                          std::span<const int> kept,
                                          const Storages& target);

}  // namespace dynatrain
