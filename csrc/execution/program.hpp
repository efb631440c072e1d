#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstdint>
#include <vector>

namespace dynatrain {

/// A message with its memory still named by buffer and offset.
struct ProgramMessage {
  int peer = 0;
  BufferId buffer;
  std::int64_t offset_bytes = 0;
  std::int64_t size_bytes = 0;
};

/// A received part whose sum is compared with the sender's.
struct PartCheck {
  const Part* part = nullptr;
  int peer = 0;
  /// Of the sender's sum in `sent_sums`, its regions joined; one-sided: in the sender's note.
  std::int64_t sent_index = 0;
};

/// What a stage asks of the copier and the transport. Addresses are patched in when it runs.
struct StageProgram {
  CopyBatch pack;    ///< source to slot; sums go into the slot, where they travel
  CopyBatch unpack;  ///< slot to target; sums of the parts, in the order of `checks`
  CopyBatch local;   ///< source to target
  std::vector<ProgramMessage> sends;
  std::vector<ProgramMessage> receives;
  std::vector<ProgramMessage> packed_sums;  ///< regions of the slot that packing adds sums to
  std::vector<ProgramMessage> sent_sums;    ///< regions of the slot where peers' sums arrive
  std::vector<PartCheck> checks;
  std::int64_t sent_bytes = 0;
  std::int64_t received_bytes = 0;
  std::int64_t local_bytes = 0;
};

/// The ids of a rank's buffers: source tensors, target tensors, slots, sums, then what peers
/// expose.
struct BufferIds {
  std::int64_t num_tensors = 0;

  [[nodiscard]] static BufferId source(TensorId tensor) { return BufferId(tensor.value); }
  [[nodiscard]] BufferId target(TensorId tensor) const {
    return BufferId(num_tensors + tensor.value);
  }
  [[nodiscard]] BufferId slot(std::size_t stage) const {
    return BufferId(2 * num_tensors + static_cast<std::int64_t>(stage % kNumSlots));
  }
  [[nodiscard]] BufferId sums() const { return BufferId(2 * num_tensors + kNumSlots); }
  [[nodiscard]] BufferId first_mapped() const { return BufferId(sums().value + 1); }
};

/// Turns parts into copies: part → boxes → views in the fragments → collapsed strided copies.
///
/// Ownership  keeps references into schedule and maps.
/// Errors     InternalError when the schedule and the maps differ.
/// Cost       O(parts), a few hundred nanoseconds each.
/// Source     own; docs/design/execution.md, "From parts to copies".
[[nodiscard]] std::vector<StageProgram> make_program(const Schedule& schedule,
                                                     const ShardMap& source,
                                                     const ShardMap& target,
                                                     bool with_sums);

/// One buffer of a peer that this rank reads in place.
struct MappedBuffer {
  int peer = 0;
  TensorId tensor;
  BufferId id;                  ///< in this rank's table
  std::int64_t size_bytes = 0;  ///< as the source map has it
};

/// The one-sided form: no slots and no messages, every part is read where its owner keeps it.
struct PullProgram {
  std::vector<StageProgram> stages;  ///< `unpack`, `local` and `checks` alone
  std::vector<MappedBuffer> mapped;
  CopyBatch exposed;                ///< sums of the parts that peers read here
  std::vector<int> exposed_reader;  ///< of each of its sums
};
[[nodiscard]] PullProgram make_pull_program(const Schedule& schedule,
                                            const ShardMap& source,
                                            const ShardMap& target,
                                            bool with_sums);

}  // namespace dynatrain
