#include <cuda/ptx>

#include "gpu_bulk_copy.hpp"

namespace dynatrain {
namespace {

constexpr std::int64_t kPieceBytes = 16 << 10U;
constexpr int kNumSlots = 6;
constexpr int kBlocksPerProcessor = 2;
constexpr int kSharedBytes = kNumSlots * static_cast<int>(kPieceBytes);

/// One thread of a block issues everything, piece by piece; the engine moves the bytes.
__global__ void copy_in_bulk(std::byte* dst, const std::byte* src, std::int64_t size_bytes) {
#if __CUDA_ARCH__ >= 900
  namespace ptx = cuda::ptx;
  constexpr int kAhead = 3;  // pieces that are read ahead of the one that is written
  extern __shared__ __align__(128) std::byte slots[];
  __shared__ std::uint64_t arrived[kNumSlots];
  for (auto& barrier : arrived) {
    ptx::mbarrier_init(&barrier, 1);
  }
  ptx::fence_proxy_async(ptx::space_shared);
  const std::int64_t stride = gridDim.x * kPieceBytes;
  const auto begin_of = [&](std::int64_t piece) {
    return blockIdx.x * kPieceBytes + piece * stride;
  };
  const auto bytes_of = [&](std::int64_t piece) {
    const std::int64_t left = size_bytes - begin_of(piece);
    return static_cast<std::uint32_t>(left < kPieceBytes ? left : kPieceBytes);
  };
  const auto slot_of = [&](std::int64_t piece) { return slots + piece % kNumSlots * kPieceBytes; };
  for (std::int64_t piece = 0; begin_of(piece - kAhead) < size_bytes; ++piece) {
    if (begin_of(piece) < size_bytes) {
      // The slot's last piece has left it: at most the later ones are still being written.
      ptx::cp_async_bulk_wait_group_read(ptx::n32_t<kNumSlots - kAhead - 1>{});
      std::uint64_t* const barrier = &arrived[piece % kNumSlots];
      ptx::mbarrier_arrive_expect_tx(
          ptx::sem_release, ptx::scope_cta, ptx::space_shared, barrier, bytes_of(piece));
      ptx::cp_async_bulk(ptx::space_cluster,
                         ptx::space_global,
                         slot_of(piece),
                         src + begin_of(piece),
                         bytes_of(piece),
                         barrier);
    }
    const std::int64_t next = piece - kAhead;
    if (next >= 0) {
      while (!ptx::mbarrier_try_wait_parity(&arrived[next % kNumSlots],
                                            static_cast<std::uint32_t>(next / kNumSlots % 2))) {
      }
      ptx::cp_async_bulk(ptx::space_global,
                         ptx::space_shared,
                         dst + begin_of(next),
                         slot_of(next),
                         bytes_of(next));
      ptx::cp_async_bulk_commit_group();
    }
  }
  ptx::cp_async_bulk_wait_group(ptx::n32_t<0>{});
#else
  static_cast<void>(dst);
  static_cast<void>(src);
  static_cast<void>(size_bytes);
#endif
}

}  // namespace

cudaError_t bulk_copy(std::byte* dst,
                      const std::byte* src,
                      std::int64_t size_bytes,
                      int num_processors,
                      cudaStream_t stream) {
  const cudaError_t status =
      cudaFuncSetAttribute(copy_in_bulk, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (status != cudaSuccess) {
    return status;
  }
  copy_in_bulk<<<kBlocksPerProcessor * num_processors, 1, kSharedBytes, stream>>>(
      dst, src, size_bytes);
  return cudaGetLastError();
}

}  // namespace dynatrain
