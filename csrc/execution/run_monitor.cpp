#include "execution/run_monitor.hpp"

#include "dynatrain/base/error.hpp"

#include "base/error_from.hpp"
#include "execution/abort_because.hpp"
#include <algorithm>
#include <new>
#include <utility>

namespace dynatrain {
namespace {

/// How late cancel may be seen.
constexpr std::chrono::milliseconds kSlice{5};
/// The transport names the peer when its own deadline passes, so it is given the time to do so.
constexpr std::chrono::milliseconds kTransportsOwnDeadline{200};

/// What a token that has ended failed with; null where it ended well, or has not ended.
std::exception_ptr failure_of(const Token& token) {
  if (!token.done()) {
    return nullptr;
  }
  try {
    token.wait(std::chrono::steady_clock::now());
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

std::string what_remains(const RunControl& control) {
  if (const int freed = control.freed_stages; freed > 0) {
    return "\n  the source of the first " + std::to_string(freed) +
           " stages is freed, the target of the first " +
           std::to_string(control.landed_stages.load()) +
           " has landed here; the transport is aborted";
  }
  return "\n  nothing was committed: source memory is untouched, target memory is undefined, the "
         "transport is aborted";
}

std::string words_of(int stage) {
  return stage == RunMonitor::kNoStage ? "what comes before or behind the stages of the switch"
                                       : "stage " + std::to_string(stage) + " of the switch";
}

}  // namespace

RunMonitor::RunMonitor(ParkedThread& thread,
                       Transport& transport,
                       Watermark* watermark,
                       const RunControl& control,
                       Deadline deadline)
    : thread_(thread),
      transport_(transport),
      watermark_(watermark),
      control_(control),
      deadline_(deadline) {
  thread_.begin([this] { run(); });
}

RunMonitor::~RunMonitor() {
  stop();
}

void RunMonitor::stop() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void RunMonitor::watch(int stage, std::int64_t size_bytes, std::vector<Token> tokens) {
  {
    const std::lock_guard lock(mutex_);
    watched_.push_back({.stage = stage,
                        .size_bytes = size_bytes,
                        .begin = Clock::now(),
                        .tokens = std::move(tokens)});
  }
  changed_.notify_all();
}

void RunMonitor::fail(int stage, const std::exception_ptr& error) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (error_ != nullptr) {
      return;
    }
    error_ = with_stage(stage, error);
  }
  abort_because(error, transport_);
  if (watermark_ != nullptr) {
    watermark_->abort(error);
  }
}

void RunMonitor::check() const {
  const std::lock_guard lock(mutex_);
  if (error_ != nullptr) {
    std::rethrow_exception(error_);
  }
}

std::vector<TraceSpan> RunMonitor::take_spans() {
  return std::move(spans_);
}

void RunMonitor::run() noexcept {
  try {
    watch_all();
  } catch (...) {
    fail(stage_, std::current_exception());  // no memory
  }
}

void RunMonitor::watch_all() {
  int stage = kNoStage;  // until there are messages, that of what was submitted
  while (const std::optional<Watched> watched = next()) {
    stage = watched->tokens.empty() ? stage : watched->stage;
    check_limits(stage);
    while (!wait_a_little(*watched)) {
      check_limits(stage);
      if (is_over()) {
        return;
      }
    }
    if (watched->size_bytes > 0) {
      spans_.push_back({.phase = TraceSpan::Phase::kWire,
                        .stage = stage,
                        .begin_seconds = seconds_at(watched->begin),
                        .end_seconds = seconds_at(Clock::now()),
                        .size_bytes = watched->size_bytes});
    }
  }
}

std::optional<RunMonitor::Watched> RunMonitor::next() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kSlice, [this] { return is_stopping_ || !watched_.empty(); });
  if (!watched_.empty()) {
    Watched watched = std::move(watched_.front());
    watched_.pop_front();
    return watched;
  }
  return is_stopping_ ? std::nullopt : std::optional(Watched());
}

bool RunMonitor::is_over() const {
  const std::lock_guard lock(mutex_);
  return is_stopping_ && error_ != nullptr;
}

void RunMonitor::check_limits(int watched) {
  const int stage = watched == kNoStage ? stage_.load() : watched;
  if (control_.cancel.load()) {
    fail(stage, error_from([] {
           return TransportError(
               "execution: the run was cancelled by its caller before it had ended\n  expected no "
               "cancel; to go on, run the schedule over a new transport",
               -1,
               -1,
               true);
         }));
  } else if (Clock::now() > deadline_ + kTransportsOwnDeadline) {
    fail(stage, error_from([] {
           return TransportError(
               "execution: the run did not end before its deadline\n  a rank is stopped, or far "
               "behind: see the output of the others\n  raise the timeout when they are only slow",
               -1,
               -1,
               true);
         }));
  }
}

bool RunMonitor::wait_a_little(const Watched& watched) {
  const auto pending = std::ranges::find_if_not(watched.tokens, &Token::done);
  for (const Token& token : watched.tokens) {
    // At once, not when the others have ended: those may wait for a peer that waits for this rank.
    if (const std::exception_ptr error = failure_of(token); error != nullptr) {
      fail(watched.stage, error);
      return true;
    }
  }
  if (pending == watched.tokens.end()) {
    return true;
  }
  try {
    pending->wait(Clock::now() + kSlice);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
    // Too early, or failed: the next look tells.
  }
  return false;
}

std::exception_ptr RunMonitor::with_stage(int stage,
                                          const std::exception_ptr& error) const noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const TransportError& known) {
    const auto told = [&] {
      return TransportError("execution: " + words_of(stage) + " failed on rank " +
                                std::to_string(transport_.rank()) + "\n  " + known.what() +
                                what_remains(control_),
                            known.peer,
                            stage,
                            known.retryable,
                            known.where());
    };
    try {
      return std::make_exception_ptr(told());
    } catch (const std::bad_alloc&) {
      return error;  // as it is
    }
  } catch (...) {
    return std::current_exception();
  }
}

}  // namespace dynatrain
