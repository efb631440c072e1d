#pragma once

#include <cstddef>
#include <cstdint>

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

inline constexpr int kMemoryTypeDevice = 2;            ///< CU_MEMORYTYPE_DEVICE
inline constexpr unsigned int kIpcLazyPeerAccess = 1;  ///< CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
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

}  // namespace dynatrain
