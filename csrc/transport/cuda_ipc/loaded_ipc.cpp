#include "dynatrain/base/error.hpp"

#include "transport/cuda_ipc/driver_calls.hpp"
#include "transport/cuda_ipc/word_copy.hpp"
#include "transport/peer_memory/owned_file.hpp"
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

namespace dynatrain {
namespace {

/// cuMemAlloc cuts smaller memory from blocks of this size, and shares the whole block.
constexpr std::size_t kProbeBytes = 2 << 20;

DevicePointer device_pointer(const std::byte* data) {
  return std::bit_cast<DevicePointer>(data);
}

const std::byte* byte_pointer(DevicePointer pointer) {
  return std::bit_cast<const std::byte*>(pointer);
}

class LoadedIpc final : public IpcApi {
 public:
  LoadedIpc(const DriverCalls& calls, int device) : cuda_(calls), device_(device) {
    cuda_.check(cuda_.init(0), "cuInit");
    DriverDevice handle = 0;
    cuda_.check(cuda_.device_get(&handle, device_), "cuDeviceGet");
    cuda_.check(cuda_.primary_retain(&context_, handle), "cuDevicePrimaryCtxRetain");
  }
  // The primary context stays retained: it is the process's, and torch's too.

  IpcPiece piece_at(const std::byte* address, std::int64_t /*size_bytes*/) override {
    const ContextScope scope(cuda_, context_);
    check_shareable(address);
    DevicePointer base = 0;
    std::size_t size = 0;
    cuda_.check(cuda_.get_address_range(&base, &size, device_pointer(address)),
                "cuMemGetAddressRange");
    return {.kind = kind_of(base),
            .base = byte_pointer(base),
            .size_bytes = static_cast<std::int64_t>(size)};
  }

  std::string export_handle(const IpcPiece& piece) override {
    const ContextScope scope(cuda_, context_);
    IpcMemoryHandle handle{};
    cuda_.check(cuda_.ipc_get(&handle, device_pointer(piece.base)), "cuIpcGetMemHandle");
    return {static_cast<const char*>(handle.reserved), sizeof(handle.reserved)};
  }

  int export_file(const IpcPiece& piece) override {
    const ContextScope scope(cuda_, context_);
    PhysicalHandle handle = 0;
    cuda_.check(cuda_.retain(&handle, const_cast<std::byte*>(piece.base)),
                "cuMemRetainAllocationHandle");
    int file = -1;
    const DriverStatus exported = cuda_.mem_export(&file, handle, kPosixFileHandle, 0);
    cuda_.check(cuda_.mem_release(handle), "cuMemRelease");
    cuda_.check(exported, "cuMemExportToShareableHandle");
    return file;
  }

  SourceAddress open_handle(const std::string& text) override {
    const ContextScope scope(cuda_, context_);
    IpcMemoryHandle handle{};
    if (text.size() != sizeof(handle.reserved)) {
      throw DeviceError("transport: this is no handle of CUDA IPC\n  expected " +
                        std::to_string(sizeof(handle.reserved)) + " bytes, got " +
                        std::to_string(text.size()) +
                        "\n  nothing was opened; no state has changed\n  use the same version of "
                        "dynatrain on all ranks");
    }
    std::memcpy(handle.reserved, text.data(), text.size());
    DevicePointer base = 0;
    cuda_.check(cuda_.ipc_open(&base, handle, kIpcLazyPeerAccess), "cuIpcOpenMemHandle");
    return {.base = byte_pointer(base)};
  }

  void close_handle(SourceAddress opened) override {
    const ContextScope scope(cuda_, context_);
    cuda_.check(cuda_.ipc_close(device_pointer(opened.base)), "cuIpcCloseMemHandle");
  }

  const std::byte* map_files(std::span<const std::int64_t> sizes_bytes,
                             const OpenPiece& open) override {
    const ContextScope scope(cuda_, context_);
    std::size_t total = 0;
    for (const std::int64_t size_bytes : sizes_bytes) {
      total += static_cast<std::size_t>(size_bytes);
    }
    DevicePointer base = 0;
    cuda_.check(cuda_.reserve(&base, total, 0, 0, 0), "cuMemAddressReserve");
    std::size_t mapped = 0;
    try {
      for (std::size_t i = 0; i < sizes_bytes.size(); ++i) {
        const auto size = static_cast<std::size_t>(sizes_bytes[i]);
        map_file(base + mapped, size, OwnedFile(open(i)));
        mapped += size;
      }
      allow(base, total);
    } catch (...) {  // what `open` throws, too
      if (mapped > 0) {
        cuda_.mem_unmap(base, mapped);
      }
      cuda_.address_free(base, total);
      throw;
    }
    return byte_pointer(base);
  }

  void unmap_files(const std::byte* base, std::int64_t size_bytes) override {
    const ContextScope scope(cuda_, context_);
    const auto size = static_cast<std::size_t>(size_bytes);
    cuda_.check(cuda_.mem_unmap(device_pointer(base), size), "cuMemUnmap");
    cuda_.check(cuda_.address_free(device_pointer(base), size), "cuMemAddressFree");
  }

  IpcPiece allocate(IpcKind kind) override {
    const ContextScope scope(cuda_, context_);
    DevicePointer base = 0;
    if (kind == IpcKind::kHandle) {
      cuda_.check(cuda_.mem_alloc(&base, kProbeBytes), "cuMemAlloc");
      return {.kind = kind, .base = byte_pointer(base), .size_bytes = kProbeBytes};
    }
    const AllocationProperties wanted = own_memory();
    std::size_t size = 0;
    cuda_.check(cuda_.granularity(&size, &wanted, kLeastGranularity),
                "cuMemGetAllocationGranularity");
    PhysicalHandle handle = 0;
    cuda_.check(cuda_.mem_create(&handle, size, &wanted, 0), "cuMemCreate");
    try {
      base = map_created(handle, size);
    } catch (const DeviceError&) {
      cuda_.mem_release(handle);
      throw;
    }
    cuda_.check(cuda_.mem_release(handle), "cuMemRelease");  // the mapping keeps it
    return {
        .kind = kind, .base = byte_pointer(base), .size_bytes = static_cast<std::int64_t>(size)};
  }

  void free(const IpcPiece& piece) override {
    if (piece.kind == IpcKind::kFile) {
      unmap_files(piece.base, piece.size_bytes);
      return;
    }
    const ContextScope scope(cuda_, context_);
    cuda_.check(cuda_.mem_free(device_pointer(piece.base)), "cuMemFree");
  }

  void write(const std::byte* dst, std::uint64_t word, Deadline deadline) override {
    const ContextScope scope(cuda_, context_);
    write_word(cuda_, device_pointer(dst), word, deadline);
  }
  std::uint64_t read(SourceAddress src, Deadline deadline) override {
    const ContextScope scope(cuda_, context_);
    return read_word(cuda_, device_pointer(src.base), deadline);
  }

 private:
  void check_shareable(const std::byte* address) {
    const DevicePointer pointer = device_pointer(address);
    unsigned int type = 0;
    cuda_.check(cuda_.pointer_get_attribute(&type, kMemoryType, pointer),
                "cuPointerGetAttribute (is it device memory?)");
    unsigned int is_managed = 0;
    cuda_.check(cuda_.pointer_get_attribute(&is_managed, kIsManaged, pointer),
                "cuPointerGetAttribute");
    if (type != kMemoryTypeDevice || is_managed != 0) {
      throw DeviceError(
          "transport: the memory cannot be read by other processes\n  expected memory "
          "of a device, it is " +
          std::string(is_managed != 0 ? "managed" : "the host's") +
          "\n  it was not published; no state has changed\n  let it lie in memory of "
          "cudaMalloc or cuMemCreate, or leave it to messages");
    }
  }

  /// An attribute whose value fits into 8 bytes; none where the driver does not know it.
  [[nodiscard]] std::optional<std::uint64_t> attribute(DevicePointer pointer,
                                                       PointerAttribute which) const {
    std::uint64_t value = 0;
    const DriverStatus status = cuda_.pointer_get_attribute(&value, which, pointer);
    return status == kDriverSuccess ? std::optional(value) : std::nullopt;
  }

  [[nodiscard]] IpcKind kind_of(DevicePointer base) const {
    const auto has_handle = attribute(base, kHasIpcHandle);
    if (has_handle.value_or(0) != 0) {
      return IpcKind::kHandle;
    }
    PhysicalHandle handle = 0;
    if (cuda_.retain(&handle, std::bit_cast<void*>(base)) != kDriverSuccess) {
      if (!has_handle.has_value()) {
        return IpcKind::kHandle;  // an old driver: cuIpcGetMemHandle will say
      }
      throw DeviceError(
          "transport: the memory can be given to no other process: it is neither cudaMalloc's nor "
          "cuMemCreate's\n  memory of cudaMallocAsync and of its pools is of this kind (backend:"
          "cudaMallocAsync in PYTORCH_CUDA_ALLOC_CONF)");
    }
    cuda_.check(cuda_.mem_release(handle), "cuMemRelease");
    const std::uint64_t types = attribute(base, kHandleTypes).value_or(kPosixFileHandle);
    if ((types & kPosixFileHandle) == 0) {
      throw DeviceError(
          "transport: the memory was made by cuMemCreate without a POSIX file descriptor as its "
          "handle type\n  expected type 1, got " +
          std::to_string(types) +
          " (0 is none, 8 is fabric)\n  for torch's expandable segments see "
          "TORCH_CUDA_EXPANDABLE_SEGMENTS_IPC=1, and "
          "PYTORCH_CUDA_ALLOC_CONF=expandable_segments_handle_type:posix_fd");
    }
    return IpcKind::kFile;
  }

  [[nodiscard]] AllocationProperties own_memory() const {
    AllocationProperties wanted{};
    wanted.type = kAllocationPinned;
    wanted.handle_types = kPosixFileHandle;
    wanted.location.type = kLocationDevice;
    wanted.location.id = device_;
    return wanted;
  }

  /// Own memory is mapped as a peer's is, but from its handle.
  DevicePointer map_created(PhysicalHandle handle, std::size_t size) {
    DevicePointer base = 0;
    cuda_.check(cuda_.reserve(&base, size, 0, 0, 0), "cuMemAddressReserve");
    bool is_mapped = false;
    try {
      cuda_.check(cuda_.mem_map(base, size, 0, handle, 0), "cuMemMap");
      is_mapped = true;
      allow(base, size);
    } catch (const DeviceError&) {
      if (is_mapped) {
        cuda_.mem_unmap(base, size);
      }
      cuda_.address_free(base, size);
      throw;
    }
    return base;
  }

  void map_file(DevicePointer at, std::size_t size, const OwnedFile& file) {
    PhysicalHandle handle = 0;
    void* const number = std::bit_cast<void*>(static_cast<std::intptr_t>(file.get()));
    cuda_.check(cuda_.mem_import(&handle, number, kPosixFileHandle),
                "cuMemImportFromShareableHandle");
    const DriverStatus mapped = cuda_.mem_map(at, size, 0, handle, 0);
    cuda_.check(cuda_.mem_release(handle), "cuMemRelease");  // the mapping keeps it
    cuda_.check(mapped, "cuMemMap");
  }

  void allow(DevicePointer base, std::size_t size) {
    MemoryAccess access{};
    access.location.type = kLocationDevice;
    access.location.id = device_;
    access.flags = kReadWrite;
    cuda_.check(cuda_.set_access(base, size, &access, 1), "cuMemSetAccess");
  }

  DriverCalls cuda_;
  int device_;
  DriverContext context_ = nullptr;
};

}  // namespace

std::shared_ptr<IpcApi> make_ipc_api(const DriverCalls& calls, int device) {
  return std::make_shared<LoadedIpc>(calls, device);
}

std::shared_ptr<IpcApi> load_ipc_api(int device) {
  const std::string problem = driver_problem();
  if (!problem.empty()) {
    throw DeviceError(problem);
  }
  return make_ipc_api(find_driver_calls().first, device);
}

std::string driver_problem() {
  const std::string problem = find_driver_calls().second;
  return problem.empty() ? "" : "transport: CUDA's driver cannot be used: " + problem;
}

}  // namespace dynatrain
