#include "dynatrain/base/token.hpp"

#include "dynatrain/base/error.hpp"

#include <utility>

namespace dynatrain {

bool HostCompletion::done() const {
  const std::lock_guard lock(mutex_);
  return is_done_;
}

void HostCompletion::wait(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!ended_.wait_until(lock, deadline, [this] { return is_done_; })) {
    throw TransportError(
        "base: an operation did not end before its deadline\n"
        "  it is still pending, and the memory it was given is still in use\n"
        "  abort the transport that runs it, or raise the timeout when the peers are only slow",
        -1,
        -1,
        false);
  }
  if (error_ != nullptr) {
    std::rethrow_exception(error_);
  }
}

void HostCompletion::set() {
  fail(nullptr);
}

void HostCompletion::fail(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (is_done_) {
      return;
    }
    is_done_ = true;
    error_ = std::move(error);
  }
  ended_.notify_all();
}

void wait_all(std::span<const Token> tokens, Deadline deadline) {
  std::exception_ptr first_error;
  for (const Token& token : tokens) {
    try {
      token.wait(deadline);
    } catch (...) {
      if (first_error == nullptr) {
        first_error = std::current_exception();
      }
    }
  }
  if (first_error != nullptr) {
    std::rethrow_exception(first_error);
  }
}

}  // namespace dynatrain
