#pragma once

#include "dynatrain/execution/tensor_memory.hpp"
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
  std::uint64_t key = 0;   ///< stands for the tensor in the terms
  std::int64_t owner = 0;  ///< what the sum belongs to; free for the caller
};

/// Cuts a box along its leading dimensions into pieces of at most 4 MiB, so that one huge tensor
/// keeps all threads busy, and appends them.
void append_pieces(std::vector<SummedBox>& pieces, const SummedBox& whole, std::int64_t elem_bytes);

/// Where the elements of a piece lie, from the base of the tensor's memory.
/// Errors: InternalError when the memory does not reach as far as the piece does.
[[nodiscard]] View view_of(const LogicalTensor& tensor,
                           const SummedBox& piece,
                           const TensorMemory& memory);

/// What stands for a tensor in its elements' terms.
[[nodiscard]] std::uint64_t tensor_key(const LogicalTensor& tensor);

/// The sum of fingerprint_term over the elements of `piece`, which lie as `view` says from `base`,
/// each with its index in the row-major order of the whole tensor.
[[nodiscard]] std::uint64_t sum_box(const LogicalTensor& tensor,
                                    const SummedBox& piece,
                                    const View& view,
                                    const std::byte* base);

}  // namespace dynatrain
