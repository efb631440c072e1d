#include "transport/shared_memory/unmapping.hpp"

#include "dynatrain/base/thread.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <sys/mman.h>

namespace dynatrain {
namespace {

/// A smaller mapping goes sooner than a thread is made.
constexpr std::size_t kLeastBytes = 4U << 20U;
/// A forked child has none of the threads that its parent had, and would wait for ever.
constexpr std::chrono::seconds kPatience{5};

struct Unmapping {
  std::mutex mutex;
  std::condition_variable changed;
  int num_under_way = 0;
};

Unmapping& unmapping() {
  static auto* const kAll = new Unmapping;  // never destroyed: its threads may outlive statics
  return *kAll;
}

void unmap(const std::byte* data, std::size_t size_bytes) noexcept {
  munmap(const_cast<std::byte*>(data), size_bytes);
}

}  // namespace

void unmap_meanwhile(const std::byte* data, std::size_t size_bytes) noexcept {
  if (size_bytes < kLeastBytes) {
    unmap(data, size_bytes);
    return;
  }
  Unmapping& all = unmapping();
  try {
    const std::lock_guard lock(all.mutex);
    start_thread("ending a mapping", [&all, data, size_bytes] {
      unmap(data, size_bytes);
      const std::lock_guard counts(all.mutex);
      --all.num_under_way;
      all.changed.notify_all();
    }).detach();
    ++all.num_under_way;
  } catch (...) {  // the system gives no thread
    unmap(data, size_bytes);
  }
}

void wait_for_unmapping() {
  Unmapping& all = unmapping();
  std::unique_lock lock(all.mutex);
  all.changed.wait_for(lock, kPatience, [&all] { return all.num_under_way == 0; });
}

}  // namespace dynatrain
