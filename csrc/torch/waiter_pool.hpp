#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <utility>
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

  /// A task, and the memory that it takes to wait in the pool.
  class Task {
   public:
    Task() = default;
    /// Errors: std::bad_alloc.
    explicit Task(std::function<void()> work) { one_.push_back(std::move(work)); }

   private:
    friend class WaiterPool;
    std::list<std::function<void()>> one_;
  };

  /// Starts `task`, which must not throw, on a thread of its own. Threads: any. Without memory for
  /// a thread, as without a thread.
  void run(Task task) noexcept;

 private:
  void start_one_more();
  void serve();

  std::mutex mutex_;
  std::condition_variable has_work_;
  std::list<std::function<void()>> waiting_;
  std::vector<std::thread> threads_;
  std::size_t num_idle_ = 0;
  bool is_closing_ = false;
};

}  // namespace dynatrain
