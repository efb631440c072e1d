#pragma once

#include "dynatrain/base/error.hpp"

#include "transport/peer_memory/ipc_api.hpp"
#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <utility>

namespace dynatrain {

// What is used of CUDA's driver, as its manual has it for versions 11 to 13, so that cuda.h is not
// needed. Enumerations are int; tests/cpp/transport/declarations_test.cpp compares all of it with
// the header where it can be compiled.

using DriverStatus = int;              ///< CUresult
using DriverDevice = int;              ///< CUdevice
using DriverContext = void*;           ///< CUcontext
using DevicePointer = std::uint64_t;   ///< CUdeviceptr
using PhysicalHandle = std::uint64_t;  ///< CUmemGenericAllocationHandle

inline constexpr DriverStatus kDriverSuccess = 0;
inline constexpr DriverStatus kDriverNotReady = 600;  ///< CUDA_ERROR_NOT_READY

inline constexpr int kMemoryTypeDevice = 2;            ///< CU_MEMORYTYPE_DEVICE
inline constexpr unsigned int kIpcLazyPeerAccess = 1;  ///< CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
inline constexpr unsigned int kNonBlockingStream = 1;  ///< CU_STREAM_NON_BLOCKING
inline constexpr int kAllocationPinned = 1;            ///< CU_MEM_ALLOCATION_TYPE_PINNED
inline constexpr int kLocationDevice = 1;              ///< CU_MEM_LOCATION_TYPE_DEVICE
inline constexpr int kPosixFileHandle = 1;             ///< CU_MEM_HANDLE_TYPE_POSIX_FILE_...
inline constexpr int kReadWrite = 3;                   ///< CU_MEM_ACCESS_FLAGS_PROT_READWRITE
inline constexpr int kLeastGranularity = 0;            ///< CU_MEM_ALLOC_GRANULARITY_MINIMUM

/// CU_POINTER_ATTRIBUTE_..., with CUDA's values.
enum PointerAttribute : int {  // NOLINT(performance-enum-size): CUDA's
  kMemoryType = 2,
  kIsManaged = 8,
  kHasIpcHandle = 10,  ///< IS_LEGACY_CUDA_IPC_CAPABLE
  kHandleTypes = 14    ///< ALLOWED_HANDLE_TYPES
};

/// CUipcMemHandle.
struct IpcMemoryHandle {
  char reserved[64] = {};
};

/// CUmemLocation.
struct MemoryLocation {
  int type = 0;
  int id = 0;
};

/// CUmemAllocationProp.
struct AllocationProperties {
  int type = 0;
  int handle_types = 0;
  MemoryLocation location;
  void* windows_attributes = nullptr;
  unsigned char flags[8] = {};
};

/// CUmemAccessDesc.
struct MemoryAccess {
  MemoryLocation location;
  int flags = 0;
};

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
  Status (*host_alloc)(void** base, std::size_t size) = nullptr;
  Status (*host_free)(void* base) = nullptr;
  Status (*stream_create)(void** stream, unsigned int flags) = nullptr;
  Status (*stream_destroy)(void* stream) = nullptr;
  Status (*stream_query)(void* stream) = nullptr;
  Status (*copy_in)(DevicePointer dst, const void* src, std::size_t size, void* stream) = nullptr;
  Status (*copy_out)(void* dst, DevicePointer src, std::size_t size, void* stream) = nullptr;

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

/// Why the driver cannot be used; empty when it can. Looks at no device.
[[nodiscard]] std::string driver_problem();

/// The seam over these calls, on a device. Errors: DeviceError.
[[nodiscard]] std::shared_ptr<IpcApi> make_ipc_api(const DriverCalls& calls, int device);
/// The same over the driver, as this process has it.
/// Errors: DeviceError that says what is missing.
[[nodiscard]] std::shared_ptr<IpcApi> load_ipc_api(int device);

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
