#pragma once

// CUDA on the host, as far as csrc/kernels/cuda uses it: its words for the compiler, and a runtime
// whose streams are threads. A kernel runs its blocks one after another, and every thread of a
// block as a thread, so that a race of theirs is one that a sanitizer sees. Device memory is host
// memory that the runtime knows; what a driver would refuse or overrun is refused here. It stands
// before CUDA's own header where the .cu files are compiled for the host.

#include <array>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after another, so one is enough

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNotReady = 600,
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDefault };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0;
constexpr unsigned cudaEventDisableTiming = 2;
constexpr unsigned cudaHostAllocPortable = 1;

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
struct cudaPointerAttributes {
  cudaMemoryType type;
};
struct cudaFuncAttributes {};
struct ulonglong2 {
  unsigned long long x;
  unsigned long long y;
};
struct dim3 {
  explicit dim3(unsigned size = 1) : x(size) {}
  unsigned x;
};

// ---- what a thread of a kernel calls ------------------------------------------------------------

namespace cuda_on_host {

constexpr int kNumDevices = 8;
constexpr int kLanes = 32;

/// Puts something on a stream, as a library's own kernels are.
void enqueue(void* stream, std::function<void()> job);
/// Whether the stream is one of the calling thread's device.
[[nodiscard]] bool is_current(cudaStream_t stream);
/// The answer of a call, which cudaGetLastError() gives as well when it is not good.
cudaError_t answer(bool is_good, cudaError_t otherwise = cudaErrorInvalidValue);

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

// ---- the runtime --------------------------------------------------------------------------------

cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t status);
const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMalloc(void** memory, std::size_t size_bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, std::size_t size_bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory);
cudaError_t cudaMemset(void* memory, int value, std::size_t size_bytes);
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t size_bytes, cudaStream_t stream);
cudaError_t cudaMemcpy(void* dst, const void* src, std::size_t size_bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(
    void* dst, const void* src, std::size_t size_bytes, cudaMemcpyKind kind, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
/// Of a kernel with a BoxTable as its only argument.
cudaError_t cudaLaunchKernel(const void* kernel,
                             dim3 num_blocks,
                             dim3 num_threads,
                             void** arguments,
                             std::size_t shared_bytes,
                             cudaStream_t stream);
