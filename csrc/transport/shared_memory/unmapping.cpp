#include "transport/shared_memory/unmapping.hpp"

#include "dynatrain/base/thread.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

namespace dynatrain {
namespace {

/// A smaller mapping goes sooner than a thread is made.
constexpr std::size_t kLeastBytes = 4U << 20U;
/// At a time: whoever takes or gives memory meanwhile waits for one piece.
constexpr std::size_t kPieceBytes = 64U << 20U;
/// As slow as no machine is, so that a wait ends.
constexpr double kLeastBytesPerSecond = 5e8;

struct Unmapping {
  pid_t process = getpid();
  std::mutex mutex;
  std::condition_variable changed;
  int num_under_way = 0;
  std::size_t bytes_under_way = 0;
};

/// Of this process: a forked child has none of the threads, and perhaps a mutex that one of them
/// held.
Unmapping& unmapping() {
  static std::atomic<Unmapping*> all{nullptr};  // never destroyed: threads may outlive statics
  Unmapping* found = all.load();
  while (found == nullptr || found->process != getpid()) {
    auto own = std::make_unique<Unmapping>();
    if (all.compare_exchange_strong(found, own.get())) {
      found = own.release();
    }
  }
  return *found;
}

void unmap(const std::byte* data, std::size_t size_bytes) noexcept {
  for (std::size_t at = 0; at < size_bytes; at += kPieceBytes) {
    munmap(const_cast<std::byte*>(data) + at, std::min(kPieceBytes, size_bytes - at));
  }
}

}  // namespace

void unmap_meanwhile(const std::byte* data, std::size_t size_bytes) noexcept {
  if (size_bytes < kLeastBytes) {
    unmap(data, size_bytes);
    return;
  }
  try {
    Unmapping& all = unmapping();
    const std::lock_guard lock(all.mutex);
    start_thread("ending a mapping", [&all, data, size_bytes] {
      unmap(data, size_bytes);
      const std::lock_guard counts(all.mutex);
      --all.num_under_way;
      all.bytes_under_way -= size_bytes;
      all.changed.notify_all();
    }).detach();
    ++all.num_under_way;
    all.bytes_under_way += size_bytes;
  } catch (...) {  // the system gives no thread
    unmap(data, size_bytes);
  }
}

void wait_for_unmapping() {
  Unmapping& all = unmapping();
  std::unique_lock lock(all.mutex);
  const std::chrono::duration<double> patience(1.0 + static_cast<double>(all.bytes_under_way) /
                                                         kLeastBytesPerSecond);
  all.changed.wait_for(lock, patience, [&all] { return all.num_under_way == 0; });
}

}  // namespace dynatrain
