#pragma once

#include "dynatrain/execution/executor.hpp"

#include "execution/program.hpp"
#include <cstdint>
#include <span>

namespace dynatrain {

/// Names the tensors' buffers in a table.
/// Errors: InternalError when a target buffer shares memory with a source buffer that is not
/// adopted whole: writing it would destroy the source.
[[nodiscard]] AddressTable patch_addresses(const RunInputs& run, const BufferIds& ids);

/// Takes out of the batch what would copy bytes onto themselves; returns their number.
[[nodiscard]] std::int64_t skip_adopted(CopyBatch& local, const AddressTable& addresses);

/// Lets the copier lay the batches out ahead of their submission; returns the device memory that it
/// took for them.
std::int64_t prepare_batches(std::span<CopyBatch* const> batches,
                             Copier& copier,
                             const AddressTable& addresses);

}  // namespace dynatrain
