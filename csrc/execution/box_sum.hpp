#pragma once

#include "dynatrain/execution/executor.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dynatrain {

/// A piece of a rank's memory that is summed as one: a box of a tensor within one fragment.
struct SummedBox {
  TensorId tensor;
  Box box;
  Fragment fragment;
  std::int64_t owner = 0;  ///< what the sum belongs to; free for the caller
};

/// Cuts a box along its longest leading dimension into pieces of a few MiB, so that one huge tensor
/// keeps all threads busy, and appends them.
void append_pieces(std::vector<SummedBox>& pieces, const SummedBox& whole, std::int64_t elem_bytes);

/// The sum of fingerprint_term over the elements of the box, each with its index in the row-major
/// order of the whole tensor.
/// Errors: InternalError when the memory does not reach as far as the box does.
[[nodiscard]] std::uint64_t sum_box(const LogicalTensor& tensor,
                                    const SummedBox& piece,
                                    const TensorMemory& memory,
                                    std::uint64_t key);

/// What stands for a tensor in its elements' terms.
[[nodiscard]] std::uint64_t tensor_key(const LogicalTensor& tensor);

}  // namespace dynatrain
