#include "kernels/cpu/job_queue.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <iterator>
#include <utility>

namespace dynatrain {
namespace {

/// How long the watcher trusts that no other job than the oldest has become ready.
constexpr std::chrono::microseconds kWatchSlice{500};

}  // namespace

JobQueue::JobQueue(int num_threads) {
  DYNATRAIN_CHECK(num_threads >= 1, "kernels: a copier needs at least one thread");
  workers_.reserve(static_cast<std::size_t>(num_threads));
  try {
    for (int i = 0; i < num_threads; ++i) {
      workers_.push_back(start_thread("copies host memory", [this] { work(); }));
    }
    watcher_ = start_thread("watches waiting copies", [this] { watch(); });
  } catch (...) {
    end_threads();
    throw;
  }
}

JobQueue::~JobQueue() {
  end_threads();
}

void JobQueue::end_threads() noexcept {
  // The watcher ends first: a job that it starts still finds workers.
  {
    const std::lock_guard lock(mutex_);
    is_watch_over_ = true;
  }
  has_waiting_.notify_all();
  if (watcher_.joinable()) {
    watcher_.join();
  }
  {
    const std::lock_guard lock(mutex_);
    is_work_over_ = true;
  }
  has_ready_.notify_all();
  for (std::thread& worker : workers_) {
    worker.join();
  }
}

void JobQueue::add(std::shared_ptr<CopyJob> job) {
  if (job->is_ready()) {
    start(std::move(job));
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(job));
  }
  has_waiting_.notify_one();
}

void JobQueue::start(std::shared_ptr<CopyJob> job) {
  try {
    job->check_after();
  } catch (...) {
    job->completion()->fail(std::current_exception());
    return;
  }
  job->begin();
  const bool is_large = job->num_chunks() > 1;
  {
    const std::lock_guard lock(mutex_);
    ready_.push_back({.job = std::move(job), .next_chunk = 0});
  }
  if (is_large) {
    has_ready_.notify_all();
  } else {
    has_ready_.notify_one();
  }
}

void JobQueue::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    has_ready_.wait(lock, [this] { return is_work_over_ || !ready_.empty(); });
    if (ready_.empty()) {
      return;
    }
    const std::shared_ptr<CopyJob> job = ready_.front().job;
    const std::int64_t chunk = ready_.front().next_chunk++;
    if (chunk + 1 == job->num_chunks()) {
      ready_.pop_front();
    }
    lock.unlock();
    job->run_chunk(chunk);
    lock.lock();
  }
}

std::vector<std::shared_ptr<CopyJob>> JobQueue::take_ready() {
  std::vector<std::shared_ptr<CopyJob>> taken;
  const auto first = std::stable_partition(
      waiting_.begin(), waiting_.end(), [](const auto& job) { return !job->is_ready(); });
  std::move(first, waiting_.end(), std::back_inserter(taken));
  waiting_.erase(first, waiting_.end());
  return taken;
}

void JobQueue::watch() {
  std::unique_lock lock(mutex_);
  while (true) {
    has_waiting_.wait(lock, [this] { return is_watch_over_ || !waiting_.empty(); });
    if (is_watch_over_) {
      break;
    }
    for (auto& job : take_ready()) {
      lock.unlock();
      start(std::move(job));
      lock.lock();
    }
    const Token pending = waiting_.empty() ? Token() : waiting_.front()->first_pending();
    lock.unlock();
    try {
      pending.wait(std::chrono::steady_clock::now() + kWatchSlice);
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
      // Too early, or failed: start() looks at the token again and passes a failure on.
    }
    lock.lock();
  }
  for (const auto& job : waiting_) {
    job->completion()->fail(std::make_exception_ptr(InternalError(
        "kernels: the copier was destroyed while a batch still waited for its tokens"
        "\n  the batch was not started\n  please report this as a bug of dynatrain")));
  }
}

}  // namespace dynatrain
