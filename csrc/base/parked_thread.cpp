#include "base/parked_thread.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"

#include <utility>

namespace dynatrain {

ParkedThread::ParkedThread(const char* purpose)
    : thread_(start_thread(purpose, [this] { serve(); })) {}

ParkedThread::~ParkedThread() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ParkedThread::begin(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    DYNATRAIN_CHECK(work_ == nullptr, "base: a parked thread was given work while it had some");
    work_ = std::move(work);
  }
  changed_.notify_all();
}

void ParkedThread::join() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return work_ == nullptr; });
}

void ParkedThread::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return is_ending_ || work_ != nullptr; });
    if (work_ == nullptr) {
      return;
    }
    lock.unlock();
    work_();  // nobody replaces it meanwhile
    lock.lock();
    work_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace dynatrain
