#pragma once

#include "dynatrain/base/thread.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace dynatrain {

/// Calls work(i) once for every i in [0, num_items), on up to `num_threads` threads, the caller's
/// among them; on fewer where the system gives no more. Errors: the first error of `work`, after
/// all threads have ended.
template <class Work>
void in_threads(std::int64_t num_items, int num_threads, Work work) {
  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  const auto run = [&] {
    try {
      for (std::int64_t i = next++; i < num_items; i = next++) {
        work(i);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      first_error = first_error == nullptr ? std::current_exception() : first_error;
      next = num_items;
    }
  };
  std::vector<std::thread> threads;
  const auto num_extra = std::min<std::int64_t>(num_threads, num_items) - 1;
  threads.reserve(static_cast<std::size_t>(std::max<std::int64_t>(0, num_extra)));
  try {
    for (std::int64_t i = 0; i < num_extra; ++i) {
      threads.push_back(start_thread("sums elements", run));
    }
  } catch (...) {  // NOLINT(bugprone-empty-catch): those that stand do the work, and are joined
  }
  run();
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (first_error != nullptr) {
    std::rethrow_exception(first_error);
  }
}

}  // namespace dynatrain
