#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.hpp"
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace dynatrain {

// Owners of what CUDA hands out. Their destructors ignore errors: at the end of a process the
// driver may be gone before they are.

struct DestroyStream {
  void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};
struct DestroyEvent {
  void operator()(cudaEvent_t event) const noexcept { cudaEventDestroy(event); }
};
using CudaStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using CudaEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

/// A stream that the default stream does not wait for, nor it for the default stream.
[[nodiscard]] inline CudaStream make_cuda_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return CudaStream(stream);
}

/// `flags`: cudaEventDefault for one whose time is asked, else cudaEventDisableTiming.
[[nodiscard]] inline CudaEvent make_cuda_event(unsigned flags) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, flags), "making an event");
  return CudaEvent(event);
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

/// Makes `device` the thread's current one while it lives: streams and memory of one device may be
/// used by any thread of the process.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (device != before_) {
      check(cudaSetDevice(device), "choosing device " + std::to_string(device));
      is_changed_ = true;
    }
  }
  ~DeviceScope() {
    if (is_changed_) {
      cudaSetDevice(before_);
    }
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
  bool is_changed_ = false;
};

}  // namespace dynatrain
