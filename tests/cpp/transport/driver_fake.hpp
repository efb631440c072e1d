#pragma once

// CUDA's driver as its manual has it, for one process: what the manual does not promise is refused
// or counted. Device memory is a word for each piece of physical memory.

#include <gtest/gtest.h>

#include "transport/cuda_ipc/driver_calls.hpp"
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace dynatrain {

class FakeDriver {
 public:
  enum class Origin : std::uint8_t { kMalloc, kCreate, kPool, kManaged, kHost };
  static constexpr std::uint64_t kGranularity = 2 << 20;

  struct Physical {
    std::uint64_t size = 0;
    std::uint64_t handle_types = 0;
    std::uint64_t word = 0;  ///< as other processes see it
    int num_handles = 0;     ///< unreleased
  };
  struct Mapping {
    Origin origin = Origin::kMalloc;
    std::uint64_t size = 0;
    std::uint64_t buffer_id = 0;
    int physical = 0;
    bool is_accessible = false;
  };

  FakeDriver() { current = this; }
  ~FakeDriver() {
    EXPECT_EQ(depth, 0) << "a context was left current";
    current = nullptr;
  }
  FakeDriver(const FakeDriver&) = delete;
  FakeDriver& operator=(const FakeDriver&) = delete;

  [[nodiscard]] static DriverCalls calls();

  /// Memory of a device that somebody else made.
  CUdeviceptr make(Origin origin, std::uint64_t size) {
    const CUdeviceptr base = take_addresses(size);
    map_at(base, {.origin = origin, .size = size, .buffer_id = ++last_id}, {.size = size});
    return base;
  }
  /// Pieces back to back in one reservation, as torch's expandable segments have them.
  CUdeviceptr make_segment(int num_pieces, std::uint64_t handle_types) {
    const CUdeviceptr base = take_addresses(kGranularity * static_cast<std::uint64_t>(num_pieces));
    const std::uint64_t buffer_id = ++last_id;
    for (int i = 0; i < num_pieces; ++i) {
      map_at(base + kGranularity * static_cast<std::uint64_t>(i),
             {.origin = Origin::kCreate, .size = kGranularity, .buffer_id = buffer_id},
             {.size = kGranularity, .handle_types = handle_types});
    }
    return base;
  }
  /// Other physical memory at the same place of the same reservation.
  void remake(CUdeviceptr base) {
    const Mapping former = mappings.at(base);
    map_at(base, former, physical.at(former.physical));
  }
  /// The mapping that holds an address.
  [[nodiscard]] std::map<CUdeviceptr, Mapping>::iterator find(CUdeviceptr address) {
    auto after = mappings.upper_bound(address);
    if (after == mappings.begin()) {
      return mappings.end();
    }
    --after;
    return address < after->first + after->second.size ? after : mappings.end();
  }
  [[nodiscard]] int num_handles() const {
    int count = 0;
    for (const auto& [number, memory] : physical) {
      count += memory.num_handles;
    }
    return count;
  }

  bool knows_block_ids = true;
  bool knows_legacy = true;
  bool retains_malloc = false;  ///< cuMemRetainAllocationHandle knows memory of cudaMalloc as well
  CUresult import_status = CUDA_SUCCESS;
  CUresult access_status = CUDA_SUCCESS;
  std::map<int, Physical> physical;
  std::map<CUdeviceptr, Mapping> mappings;
  std::map<CUdeviceptr, std::uint64_t> reservations;
  std::map<CUdeviceptr, std::uint64_t> staged;  ///< written, not on the device yet
  std::vector<int> accessed_by;                 ///< devices that were given access
  std::uint64_t last_id = 0;
  CUdeviceptr next_address = 0x7000'0000'0000;

  static inline FakeDriver* current = nullptr;
  static inline thread_local int depth = 0;  ///< contexts that were pushed

 private:
  CUdeviceptr take_addresses(std::uint64_t size) {
    const CUdeviceptr base = next_address;
    next_address += (size / kGranularity + 2) * kGranularity;  // never back to back by chance
    return base;
  }
  void map_at(CUdeviceptr base, Mapping mapping, const Physical& memory) {
    mapping.physical = static_cast<int>(physical.size()) + 1;
    physical[mapping.physical] = memory;
    mappings[base] = mapping;
  }

  static CUresult attribute(void* out, CUpointer_attribute which, CUdeviceptr address);
  static CUresult retain(CUmemGenericAllocationHandle* handle, void* address);
  static CUresult import(CUmemGenericAllocationHandle* handle, void* file);
  static CUresult map(CUdeviceptr base, std::uint64_t size, CUmemGenericAllocationHandle handle);
  static CUresult unmap(CUdeviceptr base, std::uint64_t size);
  static CUresult access(CUdeviceptr base, std::uint64_t size, const CUmemAccessDesc& wanted);
  static void add_memory_calls(DriverCalls& f);
  static void add_handle_calls(DriverCalls& f);
  static void add_address_calls(DriverCalls& f);
  static void add_copies(DriverCalls& f);

  /// Makes calls fail on threads where no context is current.
  template <auto... kCalls>
  static void require_context(DriverCalls& f) {
    (guard<kCalls>(f, f.*kCalls), ...);
  }
  template <auto kCall, class... Args>
  static void guard(DriverCalls& f, CUresult (*call)(Args...)) {
    static CUresult (*inner)(Args...) = nullptr;
    inner = call;
    f.*kCall = [](Args... args) {
      return depth == 0 ? CUDA_ERROR_INVALID_CONTEXT : inner(args...);
    };
  }
};

inline CUresult FakeDriver::attribute(void* out, CUpointer_attribute which, CUdeviceptr address) {
  FakeDriver& driver = *current;
  const auto found = driver.find(address);
  if (found == driver.mappings.end()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const Mapping& mapping = found->second;
  const auto give = [out](auto value) {
    std::memcpy(out, &value, sizeof(value));
    return CUDA_SUCCESS;
  };
  switch (static_cast<int>(which)) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return give(mapping.origin == Origin::kHost ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return give(mapping.origin == Origin::kManaged);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return give(mapping.buffer_id);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return driver.knows_legacy ? give(mapping.origin == Origin::kMalloc)
                                 : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return give(driver.physical.at(mapping.physical).handle_types);
    case 20:  // CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID
      return driver.knows_block_ids ? give(static_cast<std::uint64_t>(mapping.physical))
                                    : CUDA_ERROR_INVALID_VALUE;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

inline CUresult FakeDriver::retain(CUmemGenericAllocationHandle* handle, void* address) {
  const auto found = current->find(std::bit_cast<CUdeviceptr>(address));
  if (found == current->mappings.end() ||
      !(found->second.origin == Origin::kCreate ||
        (current->retains_malloc && found->second.origin == Origin::kMalloc))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *handle = static_cast<CUmemGenericAllocationHandle>(found->second.physical);
  ++current->physical.at(found->second.physical).num_handles;
  return CUDA_SUCCESS;
}

inline CUresult FakeDriver::import(CUmemGenericAllocationHandle* handle, void* file) {
  int number = 0;
  const int descriptor = static_cast<int>(std::bit_cast<std::intptr_t>(file));
  if (pread(descriptor, &number, sizeof(number), 0) != sizeof(number) ||
      current->import_status != CUDA_SUCCESS) {
    return current->import_status != CUDA_SUCCESS ? current->import_status
                                                  : CUDA_ERROR_INVALID_VALUE;
  }
  *handle = static_cast<CUmemGenericAllocationHandle>(number);
  ++current->physical.at(number).num_handles;
  return CUDA_SUCCESS;
}

inline CUresult FakeDriver::map(CUdeviceptr base,
                                std::uint64_t size,
                                CUmemGenericAllocationHandle handle) {
  FakeDriver& driver = *current;
  auto inside = driver.reservations.upper_bound(base);
  const bool is_reserved =
      inside != driver.reservations.begin() && base + size <= (--inside)->first + inside->second;
  const Physical& memory = driver.physical.at(static_cast<int>(handle));
  if (!is_reserved || memory.num_handles == 0 || size > memory.size || size % kGranularity != 0 ||
      base % kGranularity != 0 || driver.find(base) != driver.mappings.end()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  driver.mappings[base] = {.origin = Origin::kCreate,
                           .size = size,
                           .buffer_id = ++driver.last_id,
                           .physical = static_cast<int>(handle)};
  return CUDA_SUCCESS;
}

inline CUresult FakeDriver::unmap(CUdeviceptr base, std::uint64_t size) {
  const CUdeviceptr end = base + size;
  for (CUdeviceptr at = base; at < end;) {
    const auto found = current->mappings.find(at);
    if (found == current->mappings.end() || at + found->second.size > end) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    at += found->second.size;
    current->mappings.erase(found);
  }
  return CUDA_SUCCESS;
}

inline CUresult FakeDriver::access(CUdeviceptr base,
                                   std::uint64_t size,
                                   const CUmemAccessDesc& wanted) {
  if (current->access_status != CUDA_SUCCESS) {
    return current->access_status;
  }
  for (CUdeviceptr at = base; at < base + size;) {
    const auto found = current->mappings.find(at);
    if (found == current->mappings.end() || wanted.location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    found->second.is_accessible = true;
    at += found->second.size;
  }
  current->accessed_by.push_back(wanted.location.id);
  return CUDA_SUCCESS;
}

inline void FakeDriver::add_memory_calls(DriverCalls& f) {
  f.pointer_get_attribute = [](void* out, CUpointer_attribute which, CUdeviceptr address) {
    return attribute(out, which, address);
  };
  f.get_address_range = [](CUdeviceptr* base, std::size_t* size, CUdeviceptr address) {
    const auto found = current->find(address);
    if (found == current->mappings.end()) {
      return CUDA_ERROR_NOT_FOUND;
    }
    *base = found->first;
    *size = found->second.size;
    return CUDA_SUCCESS;
  };
  f.mem_alloc = [](CUdeviceptr* base, std::size_t size) {
    *base = current->make(Origin::kMalloc, size);
    return CUDA_SUCCESS;
  };
  f.mem_free = [](CUdeviceptr base) {
    return current->mappings.erase(base) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  };
  f.granularity = [](std::size_t* size,
                     const CUmemAllocationProp* /*wanted*/,
                     CUmemAllocationGranularity_flags /*which*/) {
    *size = kGranularity;
    return CUDA_SUCCESS;
  };
  f.mem_create = [](CUmemGenericAllocationHandle* handle,
                    std::size_t size,
                    const CUmemAllocationProp* wanted,
                    unsigned long long /*flags*/) {
    const int number = static_cast<int>(current->physical.size()) + 1;
    current->physical[number] = {
        .size = size,
        .handle_types = static_cast<std::uint64_t>(wanted->requestedHandleTypes),
        .num_handles = 1};
    *handle = static_cast<CUmemGenericAllocationHandle>(number);
    return CUDA_SUCCESS;
  };
}

inline void FakeDriver::add_handle_calls(DriverCalls& f) {
  f.retain = [](CUmemGenericAllocationHandle* handle, void* address) {
    return retain(handle, address);
  };
  f.mem_release = [](CUmemGenericAllocationHandle handle) {
    int& count = current->physical.at(static_cast<int>(handle)).num_handles;
    return --count >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  };
  f.mem_export = [](void* file,
                    CUmemGenericAllocationHandle handle,
                    CUmemAllocationHandleType type,
                    unsigned long long /*flags*/) {
    const int number = static_cast<int>(handle);
    const Physical& memory = current->physical.at(number);
    if ((memory.handle_types & static_cast<std::uint64_t>(type)) == 0 || memory.num_handles == 0) {
      return CUDA_ERROR_NOT_PERMITTED;
    }
    const int made = memfd_create("exported", MFD_CLOEXEC);
    EXPECT_EQ(pwrite(made, &number, sizeof(number), 0), static_cast<ssize_t>(sizeof(number)));
    std::memcpy(file, &made, sizeof(made));
    return CUDA_SUCCESS;
  };
  f.mem_import = [](CUmemGenericAllocationHandle* handle,
                    void* file,
                    CUmemAllocationHandleType /*type*/) { return import(handle, file); };
}

inline void FakeDriver::add_address_calls(DriverCalls& f) {
  f.reserve = [](CUdeviceptr* base,
                 std::size_t size,
                 std::size_t /*alignment*/,
                 CUdeviceptr /*hint*/,
                 unsigned long long /*flags*/) {
    *base = current->take_addresses(size);
    current->reservations[*base] = size;
    return CUDA_SUCCESS;
  };
  f.address_free = [](CUdeviceptr base, std::size_t size) {
    const auto found = current->reservations.find(base);
    const auto mapped = current->mappings.lower_bound(base);
    if (found == current->reservations.end() || found->second != size ||
        (mapped != current->mappings.end() && mapped->first < base + size)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    current->reservations.erase(found);
    return CUDA_SUCCESS;
  };
  f.mem_map = [](CUdeviceptr base,
                 std::size_t size,
                 std::size_t offset,
                 CUmemGenericAllocationHandle handle,
                 unsigned long long /*flags*/) {
    return offset == 0 ? map(base, size, handle) : CUDA_ERROR_INVALID_VALUE;
  };
  f.mem_unmap = [](CUdeviceptr base, std::size_t size) { return unmap(base, size); };
  f.set_access =
      [](CUdeviceptr base, std::size_t size, const CUmemAccessDesc* wanted, std::size_t /*count*/) {
        return access(base, size, *wanted);
      };
}

inline void FakeDriver::add_copies(DriverCalls& f) {
  f.copy_in = [](CUdeviceptr dst, const void* src, std::size_t /*size*/) {
    std::memcpy(&current->staged[dst], src, sizeof(std::uint64_t));
    return CUDA_SUCCESS;
  };
  f.copy_out = [](void* dst, CUdeviceptr src, std::size_t /*size*/) {
    const std::uint64_t word = current->physical.at(current->find(src)->second.physical).word;
    std::memcpy(dst, &word, sizeof(word));
    return CUDA_SUCCESS;
  };
  f.synchronize = [](CUstream /*stream*/) {
    for (const auto& [dst, word] : current->staged) {
      current->physical.at(current->find(dst)->second.physical).word = word;
    }
    current->staged.clear();
    return CUDA_SUCCESS;
  };
}

inline DriverCalls FakeDriver::calls() {
  DriverCalls f;
  f.init = [](unsigned int /*flags*/) { return CUDA_SUCCESS; };
  f.get_error_string = [](CUresult status, const char** text) {
    *text = status == CUDA_ERROR_INVALID_CONTEXT ? "no context is current" : "the fake refuses";
    return CUDA_SUCCESS;
  };
  f.device_get = [](CUdevice* device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
  };
  f.primary_retain = [](CUcontext* /*context*/, CUdevice /*device*/) { return CUDA_SUCCESS; };
  f.push = [](CUcontext /*context*/) {
    ++depth;
    return CUDA_SUCCESS;
  };
  f.pop = [](CUcontext* /*context*/) {
    --depth;
    return CUDA_SUCCESS;
  };
  add_memory_calls(f);
  add_handle_calls(f);
  add_address_calls(f);
  add_copies(f);
  using D = DriverCalls;
  require_context<&D::pointer_get_attribute, &D::get_address_range, &D::mem_alloc>(f);
  require_context<&D::mem_free, &D::granularity, &D::mem_create, &D::retain>(f);
  require_context<&D::mem_release, &D::mem_export, &D::mem_import, &D::reserve>(f);
  require_context<&D::address_free, &D::mem_map, &D::mem_unmap, &D::set_access>(f);
  require_context<&D::copy_in, &D::copy_out, &D::synchronize>(f);
  return f;
}

}  // namespace dynatrain
