#pragma once

#include "dynatrain/plan/plan.hpp"

#include <cstdint>
#include <vector>

namespace dynatrain {

/// Stages in flight at a time: stage k works in slot k modulo kNumSlots.
inline constexpr int kNumSlots = 2;
/// Of a part's sum, in a message and in memory.
inline constexpr std::int64_t kSumBytes = sizeof(std::uint64_t);

/// What bounds the cutting of a plan into stages. Equal on all ranks.
struct ScheduleOptions {
  /// Staging bytes a rank may use, all slots together.
  std::int64_t staging_budget_bytes = 256LL << 20U;
  /// A run this long that is contiguous on both ends travels alone, without staging.
  std::int64_t direct_threshold_bytes = 1LL << 20U;
  /// Single messages per ordered pair and stage at most, those first that save the most staging;
  /// the rest is packed.
  int max_direct_per_pair = 8;
  /// Stages to aim for where memory would allow fewer, so that pack, wire and unpack overlap.
  int num_stages_to_overlap = 4;
  /// No stage is made for overlap whose mean message would be smaller than this: what wakes threads
  /// for a message takes as long as the wire needs for some 100 KiB. (Stages that the budget asks
  /// for are made all the same: memory is a law, message size is not.)
  std::int64_t min_message_bytes = 1LL << 20U;
  /// Messages with ordinal 0 carry a sum per part, the sender's (see StageMessage).
  bool with_sums = true;
};

/// Elements [begin_elem, end_elem) of the row-major order of a move's box.
struct Part {
  TensorId tensor;
  Box box;
  std::int64_t begin_elem = 0;
  std::int64_t end_elem = 0;

  friend bool operator==(const Part&, const Part&) = default;
};

/// One message between this rank and `peer` in one stage. Packed: parts lie one after another,
/// each begin aligned to kPartAlignment, from staging_offset_bytes of the stage's slot on. Single:
/// one part, which lies without gaps in its tensor at one end or at both, and takes no staging
/// there.
struct StageMessage {
  int peer = 0;
  int ordinal = 0;      ///< 0 is the packed message of the pair and stage, 1... the single ones
  bool direct = false;  ///< of a single one: it lies in the tensor itself at this end
  std::vector<Part> parts;
  std::vector<std::int64_t> part_offsets_bytes;  ///< within the message; as many as parts
  std::int64_t size_bytes = 0;                   ///< on the wire, alignment and sums included
  /// Only with sums and ordinal 0: where the sums of the parts of this pair and stage begin, the
  /// packed parts first, then the single messages' parts by ordinal; -1 otherwise. A pair with
  /// single messages only still has an ordinal 0 message for its sums.
  std::int64_t sums_offset_bytes = -1;
  std::int64_t staging_offset_bytes = 0;  ///< within the slot; 0 for direct messages
};

inline constexpr std::int64_t kPartAlignment = 16;

[[nodiscard]] std::int64_t num_parts(const std::vector<StageMessage>& messages);

/// What this rank does in one stage. Peers are in circle order (rank + 1, rank + 2, ... for sends,
/// rank - 1, ... for receives, modulo the number of ranks), so that no peer is everybody's first.
struct Stage {
  std::vector<StageMessage> sends;
  std::vector<StageMessage> receives;
  std::vector<Part> locals;
  std::int64_t staging_bytes = 0;
};

/// The stages of one rank. Stage k holds the k-th of K equal byte ranges of every pair's list.
struct Schedule {
  int rank = 0;
  std::vector<Stage> stages;
  /// One slot holds the staging of one stage, the largest.
  std::int64_t slot_bytes = 0;
  /// All slots, min(kNumSlots, stages) of them: what staging takes, known before the first byte
  /// moves.
  std::int64_t staging_peak_bytes = 0;
};

/// Stages that this rank's plan asks for; the switch uses the maximum over all ranks (one
/// all-reduce). At least 1. Every number of stages from here on keeps every slot of this rank
/// within its share of the budget (elements of up to 64 bytes).
/// Errors   BudgetError when the budget cannot hold the smallest message of every peer; it says how
///          much would do.
/// Source   own; docs/design/schedule.md, "How many stages".
[[nodiscard]] int num_stages_wanted(const Plan& plan, const ScheduleOptions& options);

/// Cuts the plan of one rank into `num_stages` stages.
/// Shapes   both ends of a pair cut the same list at the same places, without talking.
/// Errors   BudgetError when a slot would exceed the budget (the options differ between ranks or
///          `num_stages` is below num_stages_wanted()).
/// Cost     O(moves + stages * peers).
/// Source   own; docs/design/schedule.md, "Where a list is cut" and "Messages".
[[nodiscard]] Schedule make_schedule(const Plan& plan,
                                     const ShardMap& source,
                                     const ShardMap& target,
                                     int num_stages,
                                     const ScheduleOptions& options);

}  // namespace dynatrain
