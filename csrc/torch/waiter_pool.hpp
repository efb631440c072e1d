#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dynatrain {

/// Threads for tasks that block. A task does not wait for another one's thread: the pool grows to
/// as many threads as there are tasks at a time and keeps them for the next ones. Where the system
/// gives no more, tasks wait for those that stand, and for their caller's where none does.
class WaiterPool {
 public:
  WaiterPool() = default;
  /// Returns once every task has ended.
  ~WaiterPool();
  WaiterPool(const WaiterPool&) = delete;
  WaiterPool& operator=(const WaiterPool&) = delete;

  /// Starts `task`, which must not throw, on a thread of its own. Threads: any.
  void run(std::function<void()> task);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable has_work_;
  std::deque<std::function<void()>> waiting_;
  std::vector<std::thread> threads_;
  std::size_t num_idle_ = 0;
  bool is_closing_ = false;
};

}  // namespace dynatrain
