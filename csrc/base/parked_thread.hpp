#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace dynatrain {

/// A thread that waits for work: who may not be refused one later has it made ahead.
class ParkedThread {
 public:
  /// `purpose` is told where there is none, and must outlive this.
  /// Errors: DeviceError when the system gives no thread.
  explicit ParkedThread(const char* purpose);
  /// Waits for the work that is under way.
  ~ParkedThread();
  ParkedThread(const ParkedThread&) = delete;
  ParkedThread& operator=(const ParkedThread&) = delete;
  ParkedThread(ParkedThread&&) = delete;
  ParkedThread& operator=(ParkedThread&&) = delete;

  /// Has the thread do `work`, which throws nothing.
  /// Errors: InternalError while other work is under way.
  void begin(std::function<void()> work);
  /// Waits until what was begun has ended; at once where nothing was.
  void join();

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace dynatrain
