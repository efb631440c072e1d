#include "torch/waiter_pool.hpp"

#include "dynatrain/base/thread.hpp"

#include <exception>

namespace dynatrain {

WaiterPool::~WaiterPool() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  has_work_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void WaiterPool::start_one_more() {
  threads_.reserve(threads_.size() + 1);  // a thread that stands must have its place
  threads_.push_back(start_thread("waits for a message", [this] { serve(); }));
}

void WaiterPool::run(Task task) noexcept {
  std::unique_lock lock(mutex_);
  if (waiting_.size() + 1 > num_idle_) {
    try {
      start_one_more();
    } catch (const std::exception&) {
      if (threads_.empty()) {
        lock.unlock();
        task.one_.front()();  // its messages are under way: somebody must wait for them
        return;
      }
    }
  }
  waiting_.splice(waiting_.end(), task.one_);
  has_work_.notify_one();
}

void WaiterPool::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++num_idle_;
    has_work_.wait(lock, [this] { return is_closing_ || !waiting_.empty(); });
    --num_idle_;
    if (waiting_.empty()) {
      return;
    }
    std::list<std::function<void()>> task;
    task.splice(task.end(), waiting_, waiting_.begin());
    lock.unlock();
    task.front()();
    task.clear();
    lock.lock();
  }
}

}  // namespace dynatrain
