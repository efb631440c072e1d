#pragma once

// CUDA's language on the host, as far as copy_kernel.cu uses it. A launch runs its blocks one after
// another, and every thread of a block as a thread, so that a race of theirs is one that a
// sanitizer sees. It stands before CUDA's own header where one test is compiled.

#include "kernels/cuda/box_table.hpp"
#include <array>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after another, so one is enough

using cudaError_t = int;
using cudaStream_t = void*;
struct cudaFuncAttributes {};
struct ulonglong2 {
  unsigned long long x;
  unsigned long long y;
};
struct dim3 {
  explicit dim3(unsigned size = 1) : x(size) {}
  unsigned x;
};

namespace cuda_on_host {

constexpr int kLanes = 32;

/// Threads that go in step, and what they hand each other.
struct Warp {
  std::barrier<> in_step{kLanes};
  std::array<std::uint64_t, kLanes> lanes{};
};
struct Block {
  explicit Block(unsigned num_threads) : in_step(num_threads), warps(num_threads / kLanes) {}
  std::barrier<> in_step;
  std::deque<Warp> warps;
};

inline thread_local Block* block = nullptr;
inline thread_local int lane = 0;
inline thread_local Warp* warp = nullptr;

/// All lanes' values, once every lane has given its own.
inline std::array<std::uint64_t, kLanes> exchange(std::uint64_t value) {
  warp->lanes[static_cast<std::size_t>(lane)] = value;
  warp->in_step.arrive_and_wait();
  const auto all = warp->lanes;
  warp->in_step.arrive_and_wait();
  return all;
}

}  // namespace cuda_on_host

inline thread_local dim3 threadIdx;
inline thread_local dim3 blockIdx;
inline thread_local dim3 blockDim;

inline void __syncthreads() {
  cuda_on_host::block->in_step.arrive_and_wait();
}

inline void __match_all_sync(unsigned /*mask*/, std::uint64_t value, int* is_same) {
  *is_same = 1;
  for (const std::uint64_t other : cuda_on_host::exchange(value)) {
    *is_same &= static_cast<int>(other == value);
  }
}

inline std::uint64_t __shfl_down_sync(unsigned /*mask*/, std::uint64_t value, int distance) {
  const auto all = cuda_on_host::exchange(value);
  const int from = cuda_on_host::lane + distance;
  return from < cuda_on_host::kLanes ? all[static_cast<std::size_t>(from)] : value;
}

inline void atomicAdd(unsigned long long* place, unsigned long long value) {
  __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
}

template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcg(T* address, T value) {
  *address = value;
}
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) {
  return {x, y};
}

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* /*attributes*/,
                                         const void* /*kernel*/) {
  return 0;
}

/// Of a kernel with a table as its only argument.
inline cudaError_t cudaLaunchKernel(const void* kernel,
                                    dim3 num_blocks,
                                    dim3 num_threads,
                                    void** arguments,
                                    std::size_t /*shared_bytes*/,
                                    cudaStream_t /*stream*/) {
  const auto& table = *static_cast<const dynatrain::BoxTable*>(arguments[0]);
  auto* const run = reinterpret_cast<void (*)(dynatrain::BoxTable)>(const_cast<void*>(kernel));
  cuda_on_host::Block block(num_threads.x);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < num_threads.x; ++thread) {
    threads.emplace_back([&, thread] {
      cuda_on_host::block = &block;
      cuda_on_host::lane = static_cast<int>(thread % cuda_on_host::kLanes);
      cuda_on_host::warp = &block.warps[thread / cuda_on_host::kLanes];
      threadIdx = dim3(thread);
      blockDim = num_threads;
      for (unsigned index = 0; index < num_blocks.x; ++index) {
        blockIdx = dim3(index);
        run(table);
        __syncthreads();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return 0;
}
