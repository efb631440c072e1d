#pragma once

#include "dynatrain/execution/copier.hpp"

#include <cstddef>
#include <cstdint>

namespace dynatrain {

/// A descriptor with its addresses patched in: element 0 of the copy on both sides.
struct BoundCopy {
  const CopyDescriptor* descriptor = nullptr;
  const std::byte* src = nullptr;
  std::byte* dst = nullptr;  ///< null when the descriptor only sums src
  int process = 0;           ///< whose addresses src is of, as SourceAddress has it
  int rank = -1;             ///< likewise
};

/// Patches the addresses in, of a copy of `batch`.
/// Errors: InternalError when the copy would leave one of its buffers, one has no address, or the
/// batch has no place for its sum.
[[nodiscard]] BoundCopy bind_copy(const CopyDescriptor& descriptor,
                                  const CopyBatch& batch,
                                  const AddressTable& addresses);

/// Elements of the copy; 0 when an extent is 0.
[[nodiscard]] std::int64_t num_elements_of(const CopyDescriptor& descriptor);

}  // namespace dynatrain
