#pragma once

// CUDA's driver as its manual has it, for one process: what the manual does not promise is refused
// or counted. Device memory is a word for each piece of physical memory.

#include <gtest/gtest.h>

#include "transport/cuda_ipc/driver_calls.hpp"
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <list>
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace dynatrain {

inline constexpr int kMemoryTypeHost = 1;
inline constexpr DriverStatus kInvalidValue = 1;
inline constexpr DriverStatus kInvalidDevice = 101;
inline constexpr DriverStatus kInvalidContext = 201;
inline constexpr DriverStatus kNotFound = 500;
inline constexpr DriverStatus kNotPermitted = 800;
inline constexpr DriverStatus kNotSupported = 801;

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
  DevicePointer make(Origin origin, std::uint64_t size) {
    const DevicePointer base = take_addresses(size);
    map_at(base, {.origin = origin, .size = size}, {.size = size});
    return base;
  }
  /// Pieces back to back in one reservation, as torch's expandable segments have them.
  DevicePointer make_segment(int num_pieces, std::uint64_t handle_types) {
    const DevicePointer base =
        take_addresses(kGranularity * static_cast<std::uint64_t>(num_pieces));
    for (int i = 0; i < num_pieces; ++i) {
      map_at(base + kGranularity * static_cast<std::uint64_t>(i),
             {.origin = Origin::kCreate, .size = kGranularity},
             {.size = kGranularity, .handle_types = handle_types});
    }
    return base;
  }
  /// The mapping that holds an address.
  [[nodiscard]] std::map<DevicePointer, Mapping>::iterator find(DevicePointer address) {
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

  bool knows_legacy = true;
  bool retains_malloc = false;  ///< cuMemRetainAllocationHandle knows memory of cudaMalloc as well
  DriverStatus import_status = kDriverSuccess;
  DriverStatus access_status = kDriverSuccess;
  std::map<int, Physical> physical;
  std::map<DevicePointer, Mapping> mappings;
  std::map<DevicePointer, std::uint64_t> reservations;
  std::vector<std::pair<void*, const void*>> pending;  ///< copies that nobody has waited for
  std::list<std::uint64_t> pinned;
  bool hangs = false;            ///< no stream comes to an end
  std::vector<int> accessed_by;  ///< devices that were given access
  DevicePointer next_address = 0x7000'0000'0000;

  static inline FakeDriver* current = nullptr;
  static inline thread_local int depth = 0;  ///< contexts that were pushed

 private:
  void* word_at(DevicePointer at) { return &physical.at(find(at)->second.physical).word; }
  DevicePointer take_addresses(std::uint64_t size) {
    const DevicePointer base = next_address;
    next_address += (size / kGranularity + 2) * kGranularity;  // never back to back by chance
    return base;
  }
  void map_at(DevicePointer base, Mapping mapping, const Physical& memory) {
    mapping.physical = static_cast<int>(physical.size()) + 1;
    physical[mapping.physical] = memory;
    mappings[base] = mapping;
  }

  static DriverStatus attribute(void* out, PointerAttribute which, DevicePointer address);
  static DriverStatus retain(PhysicalHandle* handle, void* address);
  static DriverStatus import(PhysicalHandle* handle, void* file);
  static DriverStatus map(DevicePointer base, std::uint64_t size, PhysicalHandle handle);
  static DriverStatus unmap(DevicePointer base, std::uint64_t size);
  static DriverStatus access(DevicePointer base, std::uint64_t size, const MemoryAccess& wanted);
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
  static void guard(DriverCalls& f, DriverStatus (*call)(Args...)) {
    static DriverStatus (*inner)(Args...) = nullptr;
    inner = call;
    f.*kCall = [](Args... args) { return depth == 0 ? kInvalidContext : inner(args...); };
  }
};

inline DriverStatus FakeDriver::attribute(void* out,
                                          PointerAttribute which,
                                          DevicePointer address) {
  FakeDriver& driver = *current;
  const auto found = driver.find(address);
  if (found == driver.mappings.end()) {
    return kInvalidValue;
  }
  const Mapping& mapping = found->second;
  const auto give = [out](auto value) {
    std::memcpy(out, &value, sizeof(value));
    return kDriverSuccess;
  };
  switch (which) {
    case kMemoryType:
      return give(mapping.origin == Origin::kHost ? kMemoryTypeHost : kMemoryTypeDevice);
    case kIsManaged:
      return give(mapping.origin == Origin::kManaged);
    case kHasIpcHandle:
      return driver.knows_legacy ? give(mapping.origin == Origin::kMalloc) : kInvalidValue;
    case kHandleTypes:
      return give(driver.physical.at(mapping.physical).handle_types);
    default:
      return kNotSupported;
  }
}

inline DriverStatus FakeDriver::retain(PhysicalHandle* handle, void* address) {
  const auto found = current->find(std::bit_cast<DevicePointer>(address));
  if (found == current->mappings.end() ||
      !(found->second.origin == Origin::kCreate ||
        (current->retains_malloc && found->second.origin == Origin::kMalloc))) {
    return kInvalidValue;
  }
  *handle = static_cast<PhysicalHandle>(found->second.physical);
  ++current->physical.at(found->second.physical).num_handles;
  return kDriverSuccess;
}

inline DriverStatus FakeDriver::import(PhysicalHandle* handle, void* file) {
  int number = 0;
  const int descriptor = static_cast<int>(std::bit_cast<std::intptr_t>(file));
  if (pread(descriptor, &number, sizeof(number), 0) != sizeof(number) ||
      current->import_status != kDriverSuccess) {
    return current->import_status != kDriverSuccess ? current->import_status : kInvalidValue;
  }
  *handle = static_cast<PhysicalHandle>(number);
  ++current->physical.at(number).num_handles;
  return kDriverSuccess;
}

inline DriverStatus FakeDriver::map(DevicePointer base, std::uint64_t size, PhysicalHandle handle) {
  FakeDriver& driver = *current;
  auto inside = driver.reservations.upper_bound(base);
  const bool is_reserved =
      inside != driver.reservations.begin() && base + size <= (--inside)->first + inside->second;
  const Physical& memory = driver.physical.at(static_cast<int>(handle));
  if (!is_reserved || memory.num_handles == 0 || size > memory.size || size % kGranularity != 0 ||
      base % kGranularity != 0 || driver.find(base) != driver.mappings.end()) {
    return kInvalidValue;
  }
  driver.mappings[base] = {
      .origin = Origin::kCreate, .size = size, .physical = static_cast<int>(handle)};
  return kDriverSuccess;
}

inline DriverStatus FakeDriver::unmap(DevicePointer base, std::uint64_t size) {
  const DevicePointer end = base + size;
  for (DevicePointer at = base; at < end;) {
    const auto found = current->mappings.find(at);
    if (found == current->mappings.end() || at + found->second.size > end) {
      return kInvalidValue;
    }
    at += found->second.size;
    current->mappings.erase(found);
  }
  return kDriverSuccess;
}

inline DriverStatus FakeDriver::access(DevicePointer base,
                                       std::uint64_t size,
                                       const MemoryAccess& wanted) {
  if (current->access_status != kDriverSuccess) {
    return current->access_status;
  }
  for (DevicePointer at = base; at < base + size;) {
    const auto found = current->mappings.find(at);
    if (found == current->mappings.end() || wanted.location.type != kLocationDevice) {
      return kInvalidValue;
    }
    found->second.is_accessible = true;
    at += found->second.size;
  }
  current->accessed_by.push_back(wanted.location.id);
  return kDriverSuccess;
}

inline void FakeDriver::add_memory_calls(DriverCalls& f) {
  f.pointer_get_attribute = [](void* out, PointerAttribute which, DevicePointer address) {
    return attribute(out, which, address);
  };
  f.get_address_range = [](DevicePointer* base, std::size_t* size, DevicePointer address) {
    const auto found = current->find(address);
    if (found == current->mappings.end()) {
      return kNotFound;
    }
    *base = found->first;
    *size = found->second.size;
    return kDriverSuccess;
  };
  f.mem_alloc = [](DevicePointer* base, std::size_t size) {
    *base = current->make(Origin::kMalloc, size);
    return kDriverSuccess;
  };
  f.mem_free = [](DevicePointer base) {
    return current->mappings.erase(base) == 1 ? kDriverSuccess : kInvalidValue;
  };
  f.granularity = [](std::size_t* size, const AllocationProperties* /*wanted*/, int /*which*/) {
    *size = kGranularity;
    return kDriverSuccess;
  };
  f.mem_create = [](PhysicalHandle* handle,
                    std::size_t size,
                    const AllocationProperties* wanted,
                    unsigned long long /*flags*/) {
    const int number = static_cast<int>(current->physical.size()) + 1;
    current->physical[number] = {.size = size,
                                 .handle_types = static_cast<std::uint64_t>(wanted->handle_types),
                                 .num_handles = 1};
    *handle = static_cast<PhysicalHandle>(number);
    return kDriverSuccess;
  };
}

inline void FakeDriver::add_handle_calls(DriverCalls& f) {
  f.retain = [](PhysicalHandle* handle, void* address) { return retain(handle, address); };
  f.mem_release = [](PhysicalHandle handle) {
    int& count = current->physical.at(static_cast<int>(handle)).num_handles;
    return --count >= 0 ? kDriverSuccess : kInvalidValue;
  };
  f.mem_export = [](void* file, PhysicalHandle handle, int type, unsigned long long /*flags*/) {
    const int number = static_cast<int>(handle);
    const Physical& memory = current->physical.at(number);
    if ((memory.handle_types & static_cast<std::uint64_t>(type)) == 0 || memory.num_handles == 0) {
      return kNotPermitted;
    }
    const int made = memfd_create("exported", MFD_CLOEXEC);
    EXPECT_EQ(pwrite(made, &number, sizeof(number), 0), static_cast<ssize_t>(sizeof(number)));
    std::memcpy(file, &made, sizeof(made));
    return kDriverSuccess;
  };
  f.mem_import = [](PhysicalHandle* handle, void* file, int /*type*/) {
    return import(handle, file);
  };
}

inline void FakeDriver::add_address_calls(DriverCalls& f) {
  f.reserve = [](DevicePointer* base,
                 std::size_t size,
                 std::size_t /*alignment*/,
                 DevicePointer /*hint*/,
                 unsigned long long /*flags*/) {
    *base = current->take_addresses(size);
    current->reservations[*base] = size;
    return kDriverSuccess;
  };
  f.address_free = [](DevicePointer base, std::size_t size) {
    const auto found = current->reservations.find(base);
    const auto mapped = current->mappings.lower_bound(base);
    if (found == current->reservations.end() || found->second != size ||
        (mapped != current->mappings.end() && mapped->first < base + size)) {
      return kInvalidValue;
    }
    current->reservations.erase(found);
    return kDriverSuccess;
  };
  f.mem_map = [](DevicePointer base,
                 std::size_t size,
                 std::size_t offset,
                 PhysicalHandle handle,
                 unsigned long long /*flags*/) {
    return offset == 0 ? map(base, size, handle) : kInvalidValue;
  };
  f.mem_unmap = [](DevicePointer base, std::size_t size) { return unmap(base, size); };
  f.set_access =
      [](DevicePointer base, std::size_t size, const MemoryAccess* wanted, std::size_t /*count*/) {
        return access(base, size, *wanted);
      };
}

inline void FakeDriver::add_copies(DriverCalls& f) {
  f.host_alloc = [](void** base, std::size_t /*size*/) {
    *base = &current->pinned.emplace_back();
    return kDriverSuccess;
  };
  f.host_free = [](void* base) {
    const auto freed = current->pinned.remove_if([&](const auto& word) { return &word == base; });
    return freed == 1 ? kDriverSuccess : kInvalidValue;
  };
  f.stream_create = [](void** stream, unsigned int flags) {
    *stream = current;
    return flags == kNonBlockingStream ? kDriverSuccess : kInvalidValue;
  };
  f.stream_destroy = [](void* /*stream*/) { return kDriverSuccess; };
  f.stream_query = [](void* /*stream*/) {
    for (const auto& [dst, src] : std::exchange(current->pending, {})) {
      std::memcpy(dst, src, sizeof(std::uint64_t));
    }
    return current->hangs ? kDriverNotReady : kDriverSuccess;
  };
  f.copy_in = [](DevicePointer dst, const void* src, std::size_t /*size*/, void* stream) {
    current->pending.emplace_back(current->word_at(dst), src);
    return stream == nullptr ? kInvalidValue : kDriverSuccess;
  };
  f.copy_out = [](void* dst, DevicePointer src, std::size_t /*size*/, void* stream) {
    current->pending.emplace_back(dst, current->word_at(src));
    return stream == nullptr ? kInvalidValue : kDriverSuccess;
  };
}

inline DriverCalls FakeDriver::calls() {
  DriverCalls f;
  f.init = [](unsigned int /*flags*/) { return kDriverSuccess; };
  f.get_error_string = [](DriverStatus status, const char** text) {
    *text = status == kInvalidContext ? "no context is current" : "the fake refuses";
    return kDriverSuccess;
  };
  f.device_get = [](DriverDevice* device, int ordinal) {
    *device = ordinal;
    return kDriverSuccess;
  };
  f.primary_retain = [](DriverContext* /*context*/, DriverDevice /*device*/) {
    return kDriverSuccess;
  };
  f.push = [](DriverContext /*context*/) {
    ++depth;
    return kDriverSuccess;
  };
  f.pop = [](DriverContext* /*context*/) {
    --depth;
    return kDriverSuccess;
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
  require_context<&D::host_alloc, &D::host_free, &D::stream_create, &D::stream_destroy>(f);
  require_context<&D::stream_query, &D::copy_in, &D::copy_out>(f);
  return f;
}

}  // namespace dynatrain
