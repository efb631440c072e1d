#pragma once

#include "dynatrain/execution/executor.hpp"

#include "base/parked_thread.hpp"
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace dynatrain {

/// Watches a run from another thread: the messages of each stage, cancel and the deadline. The
/// first failure of the run is kept here and aborts the transport, which frees every other waiter.
/// Threads  members may be called from any thread.
class RunMonitor {
 public:
  using Clock = std::chrono::steady_clock;
  /// Of what fails before the first stage or behind the last one.
  static constexpr int kNoStage = -1;

  /// A failure aborts `watermark`, too; null for none. `thread` has no other work until stop().
  RunMonitor(ParkedThread& thread,
             Transport& transport,
             Watermark* watermark,
             const RunControl& control,
             Deadline deadline);
  ~RunMonitor();
  RunMonitor(const RunMonitor&) = delete;
  RunMonitor& operator=(const RunMonitor&) = delete;
  RunMonitor(RunMonitor&&) = delete;
  RunMonitor& operator=(RunMonitor&&) = delete;

  /// What the run does from now on belongs to `stage`, or to none.
  void enter(int stage) noexcept { stage_ = stage; }
  [[nodiscard]] int stage() const noexcept { return stage_; }
  /// The messages of a stage, just posted; their end is timed.
  void watch(int stage, std::int64_t size_bytes, std::vector<Token> tokens);
  /// Keeps the run's first failure, with its stage, and aborts the transport.
  void fail(int stage, const std::exception_ptr& error) noexcept;
  /// Throws the first failure, if there is one.
  void check() const;
  /// One span per stage whose messages have ended. Only after stop().
  [[nodiscard]] std::vector<TraceSpan> take_spans();
  /// Seconds since the run began.
  [[nodiscard]] double seconds_at(Clock::time_point time) const {
    return std::chrono::duration<double>(time - begin_).count();
  }
  /// Lets go of the thread once the watched messages have ended; a failed run's are not waited for.
  void stop();

 private:
  struct Watched {
    int stage = 0;
    std::int64_t size_bytes = 0;
    Clock::time_point begin;
    std::vector<Token> tokens;
  };

  /// The thread: nothing leaves it, but fails the run.
  void run() noexcept;
  void watch_all();
  /// The next stage's messages; an empty one to look at the limits again, nothing at the end.
  [[nodiscard]] std::optional<Watched> next();
  /// `watched` is the stage whose messages were looked at last, or none.
  void check_limits(int watched);
  [[nodiscard]] bool is_over() const;
  /// Waits a little; true once all tokens have ended, or one has failed, which is kept.
  bool wait_a_little(const Watched& watched);
  [[nodiscard]] std::exception_ptr with_stage(int stage,
                                              const std::exception_ptr& error) const noexcept;

  ParkedThread& thread_;
  Transport& transport_;
  Watermark* watermark_;
  const RunControl& control_;
  Deadline deadline_;
  Clock::time_point begin_ = Clock::now();
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Watched> watched_;
  std::vector<TraceSpan> spans_;
  std::exception_ptr error_;
  bool is_stopping_ = false;
  std::atomic<int> stage_{kNoStage};  ///< that was submitted last
};

}  // namespace dynatrain
