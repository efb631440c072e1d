#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// The moment after which a wait gives up. Every wait in dynatrain takes one.
using Deadline = std::chrono::steady_clock::time_point;

/// Returns the deadline that lies `timeout` from now.
[[nodiscard]] inline Deadline deadline_in(std::chrono::milliseconds timeout) {
  return std::chrono::steady_clock::now() + timeout;
}

/// What stands behind a token: a host future here, an event on a stream for device operations.
class Completion {
 public:
  Completion() = default;
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;
  virtual ~Completion() = default;
  /// True once the operation has ended, well or badly. Never blocks.
  [[nodiscard]] virtual bool done() const = 0;
  /// Blocks the calling thread until the operation has ended.
  /// Errors   the operation's own error, each time it is asked; TransportError at the deadline.
  virtual void wait(Deadline deadline) = 0;
};

/// The completion of one submitted operation; copies share it. An empty token is already done.
class Token {
 public:
  Token() = default;
  explicit Token(std::shared_ptr<Completion> completion) : completion_(std::move(completion)) {}

  [[nodiscard]] bool done() const { return completion_ == nullptr || completion_->done(); }
  void wait(Deadline deadline) const {
    if (completion_ != nullptr) {
      completion_->wait(deadline);
    }
  }
  /// The completion, for ports that can order on it without blocking the host; null when empty.
  [[nodiscard]] const std::shared_ptr<Completion>& completion() const { return completion_; }

 private:
  std::shared_ptr<Completion> completion_;
};

/// A completion that host code sets. Threads: any thread may set, fail or wait.
class HostCompletion final : public Completion {
 public:
  [[nodiscard]] bool done() const override;
  void wait(Deadline deadline) override;
  /// Ends the operation well. A second end is ignored.
  void set();
  /// Ends the operation with an error that every waiter gets. A second end is ignored.
  void fail(std::exception_ptr error);

 private:
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  bool is_done_ = false;
  std::exception_ptr error_;
};

/// Waits for all tokens, in order; the first error wins, after all have ended or the deadline.
void wait_all(std::span<const Token> tokens, Deadline deadline);

}  // namespace dynatrain
