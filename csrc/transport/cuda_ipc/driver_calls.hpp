#pragma once

#include "dynatrain/base/error.hpp"

#include <cuda.h>

#include "transport/cuda_ipc/ipc_api.hpp"
#include <memory>
#include <source_location>
#include <string>
#include <utility>

namespace dynatrain {

/// The functions of CUDA's driver that are called, looked up when the program runs.
struct DriverCalls {
  decltype(::cuInit)* init = nullptr;
  decltype(::cuGetErrorString)* get_error_string = nullptr;
  decltype(::cuDeviceGet)* device_get = nullptr;
  decltype(::cuDevicePrimaryCtxRetain)* primary_retain = nullptr;
  decltype(::cuCtxPushCurrent)* push = nullptr;
  decltype(::cuCtxPopCurrent)* pop = nullptr;
  decltype(::cuPointerGetAttribute)* pointer_get_attribute = nullptr;
  decltype(::cuMemGetAddressRange)* get_address_range = nullptr;
  decltype(::cuIpcGetMemHandle)* ipc_get = nullptr;
  decltype(::cuIpcOpenMemHandle)* ipc_open = nullptr;
  decltype(::cuIpcCloseMemHandle)* ipc_close = nullptr;
  decltype(::cuMemRetainAllocationHandle)* retain = nullptr;
  decltype(::cuMemExportToShareableHandle)* mem_export = nullptr;
  decltype(::cuMemImportFromShareableHandle)* mem_import = nullptr;
  decltype(::cuMemAddressReserve)* reserve = nullptr;
  decltype(::cuMemAddressFree)* address_free = nullptr;
  decltype(::cuMemMap)* mem_map = nullptr;
  decltype(::cuMemUnmap)* mem_unmap = nullptr;
  decltype(::cuMemSetAccess)* set_access = nullptr;
  decltype(::cuMemCreate)* mem_create = nullptr;
  decltype(::cuMemRelease)* mem_release = nullptr;
  decltype(::cuMemGetAllocationGranularity)* granularity = nullptr;
  decltype(::cuMemAlloc)* mem_alloc = nullptr;
  decltype(::cuMemFree)* mem_free = nullptr;
  decltype(::cuMemcpyHtoD)* copy_in = nullptr;
  decltype(::cuMemcpyDtoH)* copy_out = nullptr;
  decltype(::cuStreamSynchronize)* synchronize = nullptr;

  /// Errors: DeviceError with the driver's words.
  void check(CUresult status,
             const char* what,
             std::source_location where = std::source_location::current()) const {
    if (status != CUDA_SUCCESS) {
      const char* text = nullptr;
      get_error_string(status, &text);
      throw DeviceError("transport: " + std::string(what) + " failed: " +
                            (text != nullptr ? text : "error " + std::to_string(status)),
                        where);
    }
  }
};

/// The calls, and why they cannot be used; empty when they can.
[[nodiscard]] std::pair<DriverCalls, std::string> find_driver_calls();

/// The seam over these calls, on a device. Errors: DeviceError.
[[nodiscard]] std::shared_ptr<IpcApi> make_ipc_api(const DriverCalls& calls, int device);

/// Makes a context the calling thread's for a scope.
class ContextScope {
 public:
  ContextScope(const DriverCalls& cuda, CUcontext context) : cuda_(cuda) {
    cuda_.check(cuda_.push(context), "cuCtxPushCurrent");
  }
  ~ContextScope() {
    CUcontext context = nullptr;
    cuda_.pop(&context);
  }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  const DriverCalls& cuda_;
};

}  // namespace dynatrain
