#pragma once

#include "dynatrain/execution/copier.hpp"

#include <memory>

namespace dynatrain {

/// A copier on `num_threads` host threads (>= 1); work is split by bytes, not by descriptor.
/// Batches run in the order of their tokens: a batch starts when its `after` are done, and batches
/// that wait do not hold up batches that are ready.
[[nodiscard]] std::unique_ptr<Copier> make_cpu_copier(int num_threads);

}  // namespace dynatrain
