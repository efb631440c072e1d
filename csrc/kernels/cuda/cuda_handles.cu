#include "kernels/cuda/cuda_handles.hpp"
#include <dlfcn.h>

namespace dynatrain {
namespace {

/// True when the thread has a context. Asked of the driver, which the runtime has loaded: the
/// runtime itself would answer with its first device.
bool has_context() noexcept {
  using GetCurrent = int (*)(void**);
  static const auto get_current = [] {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return driver == nullptr ? nullptr
                             : reinterpret_cast<GetCurrent>(dlsym(driver, "cuCtxGetCurrent"));
  }();
  void* context = nullptr;
  return get_current != nullptr && get_current(&context) == 0 && context != nullptr;
}

}  // namespace

cudaError_t DeviceScope::enter(int device) noexcept {
  int before = -1;
  if (has_context()) {
    const cudaError_t status = cudaGetDevice(&before);
    if (status != cudaSuccess || before == device) {
      return status;
    }
  }
  before_ = before;
  return cudaSetDevice(device);
}

DeviceScope::DeviceScope(int device) {
  check(enter(device), "choosing device " + std::to_string(device));
}

DeviceScope::DeviceScope(int device, std::nothrow_t) noexcept {
  if (enter(device) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
  }
}

DeviceScope::~DeviceScope() {
  if (before_ >= 0) {
    cudaSetDevice(before_);
  }
}

}  // namespace dynatrain
