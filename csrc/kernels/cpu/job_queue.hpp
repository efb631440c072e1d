#pragma once

#include "kernels/cpu/copy_job.hpp"
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace dynatrain {

/// A pool of threads that lives as long as the copier and runs ready jobs, oldest first, chunk by
/// chunk. Jobs that wait for tokens sit apart and are watched by one thread that mostly sleeps.
/// Threads  any thread may add.
class JobQueue {
 public:
  /// Errors: DeviceError when the system gives fewer threads; those it gave have ended.
  explicit JobQueue(int num_threads);
  /// Finishes ready jobs, fails waiting ones, and ends the threads.
  ~JobQueue();
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;
  JobQueue(JobQueue&&) = delete;
  JobQueue& operator=(JobQueue&&) = delete;

  void add(std::shared_ptr<CopyJob> job);

 private:
  struct Ready {
    std::shared_ptr<CopyJob> job;
    std::int64_t next_chunk = 0;
  };

  void end_threads() noexcept;
  void work();
  void watch();
  /// Takes the jobs out of waiting_ that have become ready.
  std::vector<std::shared_ptr<CopyJob>> take_ready();
  void start(std::shared_ptr<CopyJob> job);

  std::mutex mutex_;
  std::condition_variable has_ready_;
  std::condition_variable has_waiting_;
  std::deque<Ready> ready_;
  std::vector<std::shared_ptr<CopyJob>> waiting_;
  bool is_watch_over_ = false;
  bool is_work_over_ = false;
  std::vector<std::thread> workers_;
  std::thread watcher_;
};

}  // namespace dynatrain
