#pragma once

#include "dynatrain/base/error.hpp"

#include "transport/cuda_ipc/driver_types.hpp"
#include "transport/cuda_ipc/ipc_api.hpp"
#include <cstddef>
#include <memory>
#include <source_location>
#include <string>
#include <utility>

namespace dynatrain {

/// The functions of CUDA's driver that are called, looked up when the program runs.
struct DriverCalls {
  using Status = DriverStatus;
  using Flags = unsigned long long;

  Status (*init)(unsigned int flags) = nullptr;
  Status (*get_error_string)(Status status, const char** text) = nullptr;
  Status (*device_get)(DriverDevice* device, int ordinal) = nullptr;
  Status (*primary_retain)(DriverContext* context, DriverDevice device) = nullptr;
  Status (*push)(DriverContext context) = nullptr;
  Status (*pop)(DriverContext* context) = nullptr;
  Status (*pointer_get_attribute)(void* value, PointerAttribute which, DevicePointer at) = nullptr;
  Status (*get_address_range)(DevicePointer* base, std::size_t* size, DevicePointer at) = nullptr;
  Status (*ipc_get)(IpcMemoryHandle* handle, DevicePointer base) = nullptr;
  Status (*ipc_open)(DevicePointer* base, IpcMemoryHandle handle, unsigned int flags) = nullptr;
  Status (*ipc_close)(DevicePointer base) = nullptr;
  Status (*retain)(PhysicalHandle* handle, void* address) = nullptr;
  Status (*mem_export)(void* shareable, PhysicalHandle handle, int type, Flags flags) = nullptr;
  Status (*mem_import)(PhysicalHandle* handle, void* shareable, int type) = nullptr;
  Status (*reserve)(DevicePointer* base,
                    std::size_t size,
                    std::size_t alignment,
                    DevicePointer hint,
                    Flags flags) = nullptr;
  Status (*address_free)(DevicePointer base, std::size_t size) = nullptr;
  Status (*mem_map)(DevicePointer base,
                    std::size_t size,
                    std::size_t offset,
                    PhysicalHandle handle,
                    Flags flags) = nullptr;
  Status (*mem_unmap)(DevicePointer base, std::size_t size) = nullptr;
  Status (*set_access)(DevicePointer base,
                       std::size_t size,
                       const MemoryAccess* access,
                       std::size_t count) = nullptr;
  Status (*mem_create)(PhysicalHandle* handle,
                       std::size_t size,
                       const AllocationProperties* wanted,
                       Flags flags) = nullptr;
  Status (*mem_release)(PhysicalHandle handle) = nullptr;
  Status (*granularity)(std::size_t* size, const AllocationProperties* wanted, int which) = nullptr;
  Status (*mem_alloc)(DevicePointer* base, std::size_t size) = nullptr;
  Status (*mem_free)(DevicePointer base) = nullptr;
  Status (*copy_in)(DevicePointer dst, const void* src, std::size_t size) = nullptr;
  Status (*copy_out)(void* dst, DevicePointer src, std::size_t size) = nullptr;
  Status (*synchronize)(void* stream) = nullptr;

  /// Errors: DeviceError with the driver's words.
  void check(DriverStatus status,
             const char* what,
             std::source_location where = std::source_location::current()) const {
    if (status != kDriverSuccess) {
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
  ContextScope(const DriverCalls& cuda, DriverContext context) : cuda_(cuda) {
    cuda_.check(cuda_.push(context), "cuCtxPushCurrent");
  }
  ~ContextScope() {
    DriverContext context = nullptr;
    cuda_.pop(&context);
  }
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  const DriverCalls& cuda_;
};

}  // namespace dynatrain
