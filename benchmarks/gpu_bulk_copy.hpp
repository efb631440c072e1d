#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace dynatrain {

/// Enqueues a copy of one contiguous run by the bulk copy engine (cp.async.bulk, from sm_90 on),
/// through shared memory: what the copy kernel could use where runs are long.
/// `size_bytes` is a multiple of 16, as both addresses are.
cudaError_t bulk_copy(std::byte* dst,
                      const std::byte* src,
                      std::int64_t size_bytes,
                      int num_processors,
                      cudaStream_t stream);

}  // namespace dynatrain
