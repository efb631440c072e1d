#include "torch/waiter_pool.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"

#include <utility>

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

void WaiterPool::run(std::function<void()> task) {
  std::unique_lock lock(mutex_);
  if (waiting_.size() + 1 > num_idle_) {
    try {
      threads_.push_back(start_thread("waits for a message", [this] { serve(); }));
    } catch (const DeviceError&) {
      if (threads_.empty()) {
        lock.unlock();
        task();  // its messages are under way: somebody must wait for them
        return;
      }
    }
  }
  waiting_.push_back(std::move(task));
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
    std::function<void()> task = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
  }
}

}  // namespace dynatrain
