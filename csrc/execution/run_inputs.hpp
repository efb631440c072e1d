#pragma once

#include "dynatrain/execution/executor.hpp"

#include "execution/program.hpp"
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dynatrain {

/// What one call of Executor::run was given.
struct RunInputs {
  const Plan& plan;
  const Schedule& schedule;
  const ShardMap& source;
  const ShardMap& target;
  const TensorMemory& source_memory;
  const TensorMemory& target_memory;
  const ExecuteOptions& options;
  RunControl& control;
  Deadline deadline;
};

/// Tags are counted per pair and direction, the same way on both ends, so that a tag is never used
/// twice while a transport lives.
class TagCounter {
 public:
  TagCounter(int num_ranks, std::uint32_t first_tag)
      : sends_(static_cast<std::size_t>(num_ranks), first_tag),
        receives_(static_cast<std::size_t>(num_ranks), first_tag) {}

  [[nodiscard]] std::uint32_t next_send(int peer) {
    return sends_.at(static_cast<std::size_t>(peer))++;
  }
  [[nodiscard]] std::uint32_t next_receive(int peer) {
    return receives_.at(static_cast<std::size_t>(peer))++;
  }

 private:
  std::vector<std::uint32_t> sends_;
  std::vector<std::uint32_t> receives_;
};

/// The ports of an executor.
struct Ports {
  Transport& transport;
  Copier& copier;
  TagCounter& tags;
};

/// Names the tensors' buffers in a table.
/// Errors: InternalError when a target buffer shares memory with a source buffer that is not
/// adopted whole: writing it would destroy the source.
[[nodiscard]] AddressTable patch_addresses(const RunInputs& run, const BufferIds& ids);

/// Takes out of the batch what would copy bytes onto themselves; returns their number.
[[nodiscard]] std::int64_t skip_adopted(CopyBatch& local, const AddressTable& addresses);

/// Tells the run's control that stage `k` has landed, and the log at level DEBUG.
void tell_landed(const RunInputs& run, const StageProgram& program, std::size_t k);

/// Two words that a rank tells a peer.
using Note = std::array<std::uint64_t, 2>;

/// Sends each of `send_to` its note and takes one from each of `receive_from`.
/// Returns  what arrived, in the order of `receive_from`.
/// Errors   the first message's; every message has ended then, as the transport is aborted.
[[nodiscard]] std::vector<Note> exchange_notes(const Ports& ports,
                                               std::span<const std::pair<int, Note>> send_to,
                                               std::span<const int> receive_from,
                                               Deadline deadline);

/// Waits until all tokens have ended, well or badly; false when some have not at the deadline.
[[nodiscard]] bool drain(std::span<const Token> tokens, Deadline deadline) noexcept;

/// How long operations may take to end once their transport was aborted.
inline constexpr std::chrono::seconds kDrainTime{30};

}  // namespace dynatrain
