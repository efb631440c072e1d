#pragma once

#include "dynatrain/execution/copier.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace dynatrain {

/// True when this build of dynatrain holds its CUDA code; a device may be missing all the same.
[[nodiscard]] bool cuda_is_built();

/// Why no CUDA device can be used here (not built, driver missing or too old, no device), with
/// CUDA's own words; empty when one can. Cost: the first call initialises the driver.
[[nodiscard]] std::string cuda_problem();

struct CudaCopierOptions {
  int device = 0;
  /// What is reserved at once (Copier::reserve), about 200 bytes a copy, pinned and on the device.
  std::int64_t num_copies = 1000;
  int num_batches = 2;
};

/// A copier on a CUDA device: one kernel launch for each batch, on streams of its own.
///
/// Ownership  buffers are memory that the device reaches: its own, managed, pinned, or mapped from
///            a peer. CopyBatch::sums may be any memory: where it is the device's or managed, sums
///            are there in stream order; where it is host memory, pinned or not, they are added
///            when the token is first seen done, and must stay alive until then.
/// Threads and streams   tokens are DeviceCompletions. `after` tokens of that type order the
///            copier's streams, others are waited for by a thread of the copier; submit never
///            blocks.
/// Errors     DeviceError here when the device cannot be used; later ones through the tokens.
/// Cost       no allocation and no synchronization of the device for what was reserved.
/// Source     own; docs/design/kernels.md, "`cuda`".
[[nodiscard]] std::unique_ptr<Copier> make_cuda_copier(const CudaCopierOptions& options = {});

/// A token for everything that is on `stream` (a cudaStream_t of `device`) by now, for example what
/// an optimizer step still writes. Errors: DeviceError.
[[nodiscard]] Token cuda_stream_token(int device, void* stream);

/// Makes what is put on `stream` from now on wait for `token`; blocks the host until `deadline`
/// only for a token that is not on a stream. Errors: what the token failed with, DeviceError.
void cuda_stream_wait(void* stream, const Token& token, Deadline deadline);

/// Where memory of allocate_cuda_memory lies.
enum class CudaMemoryKind : std::uint8_t {
  kDevice,
  kPinned,  ///< on the host, and reached by every device
};

struct FreeCudaMemory {
  CudaMemoryKind kind = CudaMemoryKind::kDevice;
  int device = 0;  ///< that was current when it was taken
  void operator()(std::byte* memory) const noexcept;
};
using CudaMemory = std::unique_ptr<std::byte[], FreeCudaMemory>;

/// Memory on or for the current device, for example staging slots; aligned to 256 bytes.
/// Errors: DeviceError. Cost: may synchronize the device; not for the hot path.
[[nodiscard]] CudaMemory allocate_cuda_memory(CudaMemoryKind kind, std::int64_t size_bytes);

/// Copies bytes between any two of host, pinned and device memory, and waits for them.
/// Errors: DeviceError. Cost: synchronizes the default stream; for set-up and tests.
void copy_cuda_memory(std::byte* dst, const std::byte* src, std::int64_t size_bytes);

}  // namespace dynatrain
