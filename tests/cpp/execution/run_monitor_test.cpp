// The watcher of a run while memory runs out: what it cannot put into words still ends the run.

#include "execution/run_monitor.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "failing_allocation.hpp"
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <thread>

namespace dynatrain {
namespace {

using testing::FailingAllocation;

constexpr std::int64_t kAll = 1'000'000;

class CountingTransport final : public Transport {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  Token submit_sends(std::span<const WireMessage> /*messages*/,
                     std::span<const Token> /*after*/,
                     Deadline /*deadline*/) override {
    return {};
  }
  Token submit_receives(std::span<const WireMessage> /*messages*/,
                        std::span<const Token> /*after*/,
                        Deadline /*deadline*/) override {
    return {};
  }
  void abort(std::string_view /*reason*/) noexcept override { ++num_aborts; }

  std::atomic<int> num_aborts{0};
};

/// Waits until the run has failed; false where it has not within 20 s.
bool has_failed(const RunMonitor& monitor) {
  const Deadline deadline = deadline_in(std::chrono::seconds(20));
  while (std::chrono::steady_clock::now() < deadline) {
    try {
      monitor.check();
    } catch (const std::exception&) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

// Where the stage cannot be told, the peer that failed still is.
TEST(RunMonitorWithoutMemory, FailureIsKeptAsItIs) {
  CountingTransport transport;
  const RunControl control;
  ParkedThread thread("watches a run");
  RunMonitor monitor(
      thread, transport, nullptr, control, Deadline::max() - std::chrono::seconds(1));
  const std::exception_ptr error = std::make_exception_ptr(TransportError("cut", 3, -1, true));
  {
    const FailingAllocation none(0, kAll);
    monitor.fail(2, error);
  }
  try {
    monitor.check();
    FAIL() << "the failure was lost";
  } catch (const TransportError& kept) {
    EXPECT_EQ(kept.peer, 3);
  }
  EXPECT_EQ(transport.num_aborts, 1);
}

// Nobody else hears of it: the run would go on.
TEST(RunMonitorWithoutMemory, CancelledRunEnds) {
  CountingTransport transport;
  RunControl control;
  ParkedThread thread("watches a run");
  RunMonitor monitor(
      thread, transport, nullptr, control, Deadline::max() - std::chrono::seconds(1));
  {
    const FailingAllocation none(0, kAll);
    control.cancel = true;
    EXPECT_TRUE(has_failed(monitor));
  }
  EXPECT_EQ(transport.num_aborts, 1);
}

// The span is noted on the watcher's thread, where nobody catches what is thrown.
TEST(RunMonitorWithoutMemory, SpanThatCannotBeNotedFailsTheRunAlone) {
  CountingTransport transport;
  const RunControl control;
  ParkedThread thread("watches a run");
  RunMonitor monitor(
      thread, transport, nullptr, control, Deadline::max() - std::chrono::seconds(1));
  const auto messages = std::make_shared<HostCompletion>();
  monitor.watch(0, 8, {Token(messages)});
  {
    const FailingAllocation none(0, kAll);
    messages->set();
    EXPECT_TRUE(has_failed(monitor));
  }
  EXPECT_EQ(transport.num_aborts, 1);
}

}  // namespace
}  // namespace dynatrain
