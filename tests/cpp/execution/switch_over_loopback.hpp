#pragma once

// Ranks as threads: tagged memory for any shard map, and one switch from map to map.

#include "dynatrain/execution/executor.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"
#include "dynatrain/layout/layout.hpp"
#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"
#include "dynatrain/schedule/schedule.hpp"
#include "dynatrain/transport/loopback.hpp"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace dynatrain {

/// One rank's buffers of all tensors of a map.
struct RankBuffers {
  std::vector<std::vector<std::byte>> bytes;

  [[nodiscard]] TensorMemory memory();
  friend bool operator==(const RankBuffers&, const RankBuffers&) = default;
};

/// Buffers of `rank`, filled with a value that no tag has.
[[nodiscard]] RankBuffers empty_buffers(const ShardMap& map, int rank);
/// Buffers in which every element holds the tag of its tensor and global index.
[[nodiscard]] RankBuffers tagged_buffers(const ShardMap& map, int rank);
/// The first element that does not hold its tag, in words; empty when all do.
[[nodiscard]] std::string first_wrong(const ShardMap& map, int rank, const RankBuffers& buffers);
/// The global indices of the elements of one tensor that hold their tag.
[[nodiscard]] std::set<std::int64_t> tagged_elements(const ShardMap& map,
                                                     int rank,
                                                     std::size_t tensor,
                                                     const RankBuffers& buffers);

/// A small model that has what is hard: uneven dims, scalars, FSDP inside TP, a tensor tied across
/// pipeline stages, replicated buffers, elements of 1 to 8 bytes.
[[nodiscard]] ShardMap model_map(const Layout& layout);

struct SwitchCase {
  ScheduleOptions schedule;
  ExecuteOptions execute;
  LoopbackOptions loopback;
  bool verify_sums = true;
  bool allow_one_sided = true;
  /// Maps the sources ahead, while they hold other bytes than in the runs: one in place, one by
  /// messages.
  bool map_ahead = false;
  /// Wraps a rank's transport, to make it misbehave; none: as it is.
  std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>, LoopbackWorld&)> wrap;
  /// Makes a rank's copier.
  std::function<std::unique_ptr<Copier>(int rank)> make_copier = [](int /*rank*/) {
    return make_cpu_copier(1);
  };
};

/// What became of each rank.
struct SwitchOutcome {
  std::vector<RankBuffers> source;
  std::vector<RankBuffers> target;
  std::vector<RunResult> results;
  std::vector<std::exception_ptr> errors;  ///< null where the rank ended well
  std::vector<std::unique_ptr<RunControl>> controls;
  std::vector<Plan> plans;
  std::vector<Schedule> schedules;
};

/// Plans and runs one switch over loopback, a thread and a copier for each rank. `on_rank` runs on
/// each rank's thread between prepare() and run(); throwing there leaves the rank out.
[[nodiscard]] SwitchOutcome switch_over_loopback(
    const ShardMap& source,
    const ShardMap& target,
    const SwitchCase& what,
    const std::function<void(int rank, LoopbackWorld& world, RunControl& control)>& on_rank = {});

/// Expects that every rank ended well, holds what it should, and that no source byte changed.
void expect_identity(const ShardMap& source, const ShardMap& target, const SwitchOutcome& outcome);

/// All layouts over dp_shard, tp and pp, and dp_replicate if asked for, of `world_size` ranks.
[[nodiscard]] std::vector<Layout> layouts_of(int world_size, bool with_replicate);

}  // namespace dynatrain
