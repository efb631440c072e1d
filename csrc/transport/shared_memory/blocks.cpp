#include "transport/shared_memory/blocks.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/host_memory.hpp"
#include "dynatrain/transport/shared_memory.hpp"

#include "transport/shared_memory/unmapping.hpp"
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace dynatrain {
namespace {

struct Block {
  std::int64_t size_bytes = 0;
  OwnedFile file;
};

/// The blocks of this process by their first byte: memory is known by its address alone.
struct Blocks {
  std::mutex mutex;
  std::map<const std::byte*, Block> by_base;
};

Blocks& blocks() {
  static auto* const kAll = new Blocks;  // never destroyed: tensors may outlive statics
  return *kAll;
}

std::string reason(int error) {
  return std::generic_category().message(error);
}

[[noreturn]] void throw_no_file(int error) {
  throw DeviceError("transport: a block of shared memory cannot be made: " + reason(error) +
                    "\n  nothing was taken; no state has changed\n"
                    "  let this process open more files, or move the state by messages");
}

/// The size of a file is no memory yet: a limit on files refuses it, not the want of pages.
[[noreturn]] void throw_too_large(std::int64_t size_bytes, int error) {
  throw DeviceError("transport: a block of " + std::to_string(size_bytes) +
                    " bytes of shared memory cannot be made: " + reason(error) +
                    "\n  expected files of this process to be allowed that size (ulimit -f)"
                    "\n  nothing was taken; no state has changed\n"
                    "  raise the limit, or move the state by messages");
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // of Linux 5.14
#endif

/// Calls until no signal interrupts; returns the errno of a failure, 0 of a success.
template <class Call>
int error_of(Call call) {
  int error = EINTR;
  while (error == EINTR) {
    error = call() == 0 ? 0 : errno;
  }
  return error;
}

/// Maps the whole of an empty file, and has the system give all of its pages now: one that lacks
/// later would end the process. It gives pages of files until it kills processes, so that more than
/// is left is not asked for. Huge pages, where the system gives any to shared memory, come ten
/// times as fast.
std::byte* take_pages(const OwnedFile& file, std::int64_t size_bytes) {
  const auto size = static_cast<std::size_t>(size_bytes);
  if (size_bytes > std::min(available_host_bytes(), available_address_bytes())) {
    throw std::bad_alloc();
  }
  if (const int error = error_of([&] { return ftruncate(file.get(), size_bytes); })) {
    throw_too_large(size_bytes, error);
  }
  void* const mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) {  // NOLINT(performance-no-int-to-ptr): how mmap says it
    throw std::bad_alloc();
  }
  static_cast<void>(madvise(mapped, size, MADV_HUGEPAGE));  // refused where there are none
  int error = error_of([&] { return madvise(mapped, size, MADV_POPULATE_WRITE); });
  if (error == EINVAL) {  // an older system; the pages are mapped as they are touched
    error = error_of([&] { return fallocate(file.get(), 0, 0, size_bytes); });
  }
  if (error != 0) {
    munmap(mapped, size);
    throw std::bad_alloc();
  }
  return static_cast<std::byte*>(mapped);
}

}  // namespace

SharedBlock::SharedBlock(std::int64_t size_bytes) : size_bytes_(size_bytes) {
  DYNATRAIN_CHECK(size_bytes > 0, "transport: a block of shared memory needs a size");
  OwnedFile file(memfd_create("dynatrain", MFD_CLOEXEC));
  if (!file.is_open()) {
    throw_no_file(errno);
  }
  Blocks& all = blocks();
  wait_for_unmapping();
  data_ = take_pages(file, size_bytes);
  try {
    const std::lock_guard lock(all.mutex);
    all.by_base.emplace(data_, Block{.size_bytes = size_bytes, .file = std::move(file)});
  } catch (...) {
    munmap(data_, static_cast<std::size_t>(size_bytes));
    throw;
  }
}

SharedBlock::~SharedBlock() {
  Blocks& all = blocks();
  {
    const std::lock_guard lock(all.mutex);
    all.by_base.erase(data_);
  }
  unmap_meanwhile(data_, static_cast<std::size_t>(size_bytes_));
}

void SharedBlock::wait_for_leaving() {
  wait_for_unmapping();
}

bool SharedBlock::holds(const std::byte* address) {
  return block_at(address).has_value();
}

std::optional<IpcPiece> block_at(const std::byte* address) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto after = all.by_base.upper_bound(address);
  if (after == all.by_base.begin()) {
    return std::nullopt;
  }
  const auto& [base, block] = *std::prev(after);
  if (address >= base + block.size_bytes) {
    return std::nullopt;
  }
  return IpcPiece{.kind = IpcKind::kFile, .base = base, .size_bytes = block.size_bytes};
}

OwnedFile file_of_block(const std::byte* base) {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.by_base.find(base);
  if (found == all.by_base.end()) {
    return {};
  }
  OwnedFile copy(fcntl(found->second.file.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.is_open()) {
    throw_no_file(errno);
  }
  return copy;
}

}  // namespace dynatrain
