#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.hpp"
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace dynatrain {

// Owners of what CUDA hands out. Their destructors ignore errors: at the end of a process the
// driver may be gone before they are.

/// Makes `device` the thread's current one while it lives, so that any thread of the process may
/// use streams and memory of one device. A thread that had no device keeps this one: giving it back
/// the device that the runtime names then, the first, would make a context there.
class DeviceScope {
 public:
  /// Errors: DeviceError.
  explicit DeviceScope(int device);
  /// For destructors: goes on where the device cannot be chosen.
  DeviceScope(int device, std::nothrow_t) noexcept;
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  cudaError_t enter(int device) noexcept;

  int before_ = -1;  ///< -1: nothing to give back
};

struct DestroyStream {
  int device = 0;
  void operator()(cudaStream_t stream) const noexcept {
    const DeviceScope scope(device, std::nothrow);
    cudaStreamDestroy(stream);
  }
};
struct DestroyEvent {
  int device = 0;
  void operator()(cudaEvent_t event) const noexcept {
    const DeviceScope scope(device, std::nothrow);
    cudaEventDestroy(event);
  }
};
using CudaStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using CudaEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

/// The thread's current device.
[[nodiscard]] inline int current_cuda_device() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  return device;
}

/// A stream of the current device that the default stream does not wait for, nor it for that one.
[[nodiscard]] inline CudaStream make_cuda_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return {stream, DestroyStream{.device = current_cuda_device()}};
}

/// `flags`: cudaEventDefault for one whose time is asked, else cudaEventDisableTiming.
[[nodiscard]] inline CudaEvent make_cuda_event(unsigned flags) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, flags), "making an event");
  return {event, DestroyEvent{.device = current_cuda_device()}};
}

/// True when the event has passed. Errors: DeviceError when a launch before it failed.
[[nodiscard]] inline bool has_passed(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(status, "asking an event");
  return true;
}

}  // namespace dynatrain
