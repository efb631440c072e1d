#pragma once

#include "dynatrain/execution/executor.hpp"

#include "execution/program.hpp"
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dynatrain {

/// Names the tensors' buffers in a table.
/// Errors: InternalError when a target buffer shares memory with a source buffer that is not
/// adopted whole: writing it would destroy the source.
[[nodiscard]] AddressTable patch_addresses(const RunInputs& run, const BufferIds& ids);

/// Takes out of the batch what would copy bytes onto themselves; returns their number.
[[nodiscard]] std::int64_t skip_adopted(CopyBatch& local, const AddressTable& addresses);

/// True when the run compares sums: it was asked to, and its schedule carries them.
[[nodiscard]] bool compares_sums(const RunInputs& run);

/// Errors: TransportError naming the part, when what arrived is not what was sent.
void compare_sums(const RunInputs& run,
                  const PartCheck& check,
                  int stage,
                  std::uint64_t sent,
                  std::uint64_t received);

/// Tells the run's control that stage `k` has landed, and the log at level DEBUG.
void tell_landed(const RunInputs& run,
                 RunControl& control,
                 const StageProgram& program,
                 std::size_t k);

/// Lets the copier lay the batches out ahead of their submission; returns the device memory that it
/// took for them.
std::int64_t prepare_batches(std::span<CopyBatch* const> batches,
                             Copier& copier,
                             const AddressTable& addresses);

/// Waits until all tokens have ended, well or badly; false when some have not at the deadline.
[[nodiscard]] bool drain(std::span<const Token> tokens, Deadline deadline) noexcept;

/// How long operations may take to end once their transport was aborted.
inline constexpr std::chrono::seconds kDrainTime{30};

}  // namespace dynatrain
