#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstdint>
#include <vector>

namespace dynatrain {

/// When a rank does what in one stage; seconds since the switch began. Begin and end are equal
/// where there is nothing to do.
struct StageTimes {
  double pack_begin = 0;  ///< of what is packed, and of what stays on the rank
  double pack_end = 0;
  double wire_begin = 0;  ///< from the first of its messages to the last
  double wire_end = 0;
  double unpack_begin = 0;
  double unpack_end = 0;
};

/// A switch in virtual time.
struct VirtualTimes {
  double seconds = 0;               ///< until the last rank has ended
  std::vector<double> end_of_rank;  ///< seconds
};

/// The schedules of all ranks of a switch, run in virtual time: what waits for what is as in a real
/// run, and how long things take is a topology's.
///
/// A rank copies one thing after the other; of stage k it packs once stage k - 2 has left its slot,
/// and unpacks once all of it has arrived. A link carries one message after the other in each
/// direction, those of a stage in the order in which they are ready. Where a node's cores carry
/// messages, or its ranks share one memory, all of that is one queue.
///
/// Ownership  keeps numbers alone: a schedule may go once it was added.
/// Source     own; docs/design/schedule.md, "In virtual time".
class VirtualRun {
 public:
  /// `begin_of_rank`: when each rank begins, in seconds: behind a run before this one. Empty where
  /// all begin at 0.
  /// Errors: LayoutError when a speed is not above 0, or a rank begins before 0.
  VirtualRun(DecisionRecord record,
             const Topology& topology,
             std::vector<double> begin_of_rank = {});

  /// Adds the rank of `schedule`, which was made of `plan` and `map`, the source's or the target's.
  /// Errors  LayoutError when its rank was added already, its number of stages is not that of the
  ///         others, or the record or the begins do not reach a rank.
  /// Cost    O(parts + messages); 16 bytes a peer and stage are kept.
  void add(const Plan& plan, const Schedule& schedule, const ShardMap& map);

  /// Errors  LayoutError when a peer of some rank was not added.
  /// Cost    some microseconds a message where links alone bound it; where a node's cores carry all
  ///          messages of its ranks, up to the square of those that wait for them.
  [[nodiscard]] VirtualTimes run() const;
  /// What one rank does in the same run, by stage. Errors, cost: those of run(); LayoutError when
  /// `rank` was not added.
  [[nodiscard]] std::vector<StageTimes> times_of(int rank) const;

 private:
  struct Message {
    int peer = 0;
    std::int64_t size_bytes = 0;
  };
  struct StageLoad {
    std::int64_t packed_bytes = 0;
    std::int64_t copied_bytes = 0;  ///< what stays on the rank
    std::int64_t unpacked_bytes = 0;
    std::vector<Message> sends;  ///< all messages of a peer together
  };
  struct RankLoad {
    int rank = 0;
    std::vector<StageLoad> stages;
  };
  class Clock;

  [[nodiscard]] double begin_of(int rank) const;
  [[nodiscard]] static StageLoad load_of(const Plan& plan, const Stage& stage, const ShardMap& map);
  /// The loads by rank; null where a rank has none.
  [[nodiscard]] std::vector<const RankLoad*> by_rank() const;
  [[nodiscard]] Clock ran(int traced, std::vector<StageTimes>& times) const;

  DecisionRecord record_;
  Topology topology_;
  std::vector<double> begin_of_rank_;
  std::vector<RankLoad> loads_;
};

}  // namespace dynatrain
