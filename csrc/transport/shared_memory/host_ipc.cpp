#include "transport/shared_memory/host_ipc.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/shared_memory.hpp"

#include "base/other_process.hpp"
#include "transport/peer_memory/owned_file.hpp"
#include "transport/shared_memory/blocks.hpp"
#include "transport/shared_memory/unmapping.hpp"
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::int64_t kProbeBytes = 4096;

[[noreturn]] void throw_no_handle() {
  throw DeviceError(
      "transport: this is no place in a process's memory\n  nothing was opened; no state has "
      "changed\n  "
      "use the same version of dynatrain on all ranks");
}

/// A process, by its number, and an address of its memory.
struct ProcessPlace {
  std::int64_t process = 0;
  const std::byte* base = nullptr;
};

[[noreturn]] void throw_unmapped(int error) {
  throw DeviceError("transport: memory of another process cannot be mapped: " +
                    std::generic_category().message(error) +
                    "\n  expected room in this process's address space for all of it\n  nothing of "
                    "it was read; no state has changed\n  raise the limits on memory (ulimit -v, "
                    "vm.max_map_count), or run over messages");
}

/// So much address space, from where huge pages can be mapped as such.
std::byte* reserve(std::size_t size_bytes) {
  constexpr std::size_t huge_page = 2U << 20U;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t kept_bytes = (size_bytes + page - 1) / page * page;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const reserved = mmap(nullptr, kept_bytes + huge_page, PROT_NONE, flags, -1, 0);
  if (reserved == MAP_FAILED) {  // NOLINT(performance-no-int-to-ptr): how mmap says it
    throw_unmapped(errno);
  }
  auto* const first = static_cast<std::byte*>(reserved);
  const std::size_t before =
      (huge_page - reinterpret_cast<std::uintptr_t>(first) % huge_page) % huge_page;
  if (before > 0) {
    munmap(first, before);
  }
  munmap(first + before + kept_bytes, huge_page - before);
  return first + before;
}

class HostIpc final : public IpcApi {
 public:
  /// Memory that is in no block is this process's alone: its place is told.
  IpcPiece piece_at(const std::byte* address, std::int64_t size_bytes) override {
    return block_at(address).value_or(
        IpcPiece{.kind = IpcKind::kHandle, .base = address, .size_bytes = size_bytes});
  }

  std::string export_handle(const IpcPiece& piece) override {
    const ProcessPlace place{.process = getpid(), .base = piece.base};
    std::string handle(sizeof(place), '\0');
    std::memcpy(handle.data(), &place, sizeof(place));
    return handle;
  }
  SourceAddress open_handle(const std::string& handle) override {
    ProcessPlace place;
    if (handle.size() != sizeof(place)) {
      throw_no_handle();
    }
    std::memcpy(&place, handle.data(), sizeof(place));
    return {.base = place.base, .process = static_cast<int>(place.process)};
  }
  void close_handle(SourceAddress /*opened*/) override {}  // nothing was opened

  int export_file(const IpcPiece& piece) override {
    OwnedFile file = file_of_block(piece.base);
    if (!file.is_open()) {
      throw DeviceError(
          "transport: the memory has been freed since it was published\n  expected it to stay "
          "until "
          "the run's peers have read it\n  nothing of it was read; no state has changed\n  keep "
          "the "
          "state until the switch has ended");
    }
    return file.release();
  }

  const std::byte* map_files(std::span<const std::int64_t> sizes_bytes,
                             const OpenPiece& open) override {
    std::size_t total = 0;
    for (const std::int64_t size_bytes : sizes_bytes) {
      total += static_cast<std::size_t>(size_bytes);
    }
    DYNATRAIN_CHECK(total > 0, "transport: there is no memory to map");
    std::byte* const base = reserve(total);
    try {
      std::byte* at = base;
      for (std::size_t i = 0; i < sizes_bytes.size(); ++i) {
        const auto size = static_cast<std::size_t>(sizes_bytes[i]);
        const OwnedFile file(open(i));
        // The pages are there: a fault for each of them would come in the middle of a run.
        if (mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_POPULATE, file.get(), 0) != at) {
          throw_unmapped(errno);
        }
        at += size;
      }
    } catch (...) {  // what `open` throws, too
      munmap(base, total);
      throw;
    }
    return base;
  }

  void unmap_files(const std::byte* base, std::int64_t size_bytes) override {
    unmap_meanwhile(base, static_cast<std::size_t>(size_bytes));  // ranks stand still here
  }

  IpcPiece allocate(IpcKind kind) override {
    const std::lock_guard lock(mutex_);
    if (kind == IpcKind::kHandle) {
      auto memory = std::make_unique<std::byte[]>(kProbeBytes);
      const IpcPiece piece{.kind = kind, .base = memory.get(), .size_bytes = kProbeBytes};
      private_.emplace(piece.base, std::move(memory));
      return piece;
    }
    auto block = std::make_unique<SharedBlock>(kProbeBytes);
    const IpcPiece piece{.kind = kind, .base = block->data(), .size_bytes = block->size_bytes()};
    blocks_.emplace(piece.base, std::move(block));
    return piece;
  }

  void free(const IpcPiece& piece) override {
    const std::lock_guard lock(mutex_);
    blocks_.erase(piece.base);
    private_.erase(piece.base);
  }

  void write(const std::byte* dst, std::uint64_t word, Deadline /*deadline*/) override {
    std::memcpy(const_cast<std::byte*>(dst), &word, sizeof(word));
  }

  std::uint64_t read(SourceAddress src, Deadline /*deadline*/) override {
    std::uint64_t word = 0;
    if (src.process == 0) {
      std::memcpy(&word, src.base, sizeof(word));
      return word;
    }
    const iovec own{.iov_base = &word, .iov_len = sizeof(word)};
    const iovec theirs{.iov_base = const_cast<std::byte*>(src.base), .iov_len = sizeof(word)};
    read_process({.number = src.process, .rank = src.rank}, {&own, 1}, {&theirs, 1});
    return word;
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, std::unique_ptr<SharedBlock>> blocks_;   ///< of probes
  std::map<const std::byte*, std::unique_ptr<std::byte[]>> private_;  ///< as well
};

}  // namespace

std::shared_ptr<IpcApi> make_host_ipc() {
  return std::make_shared<HostIpc>();
}

}  // namespace dynatrain
