#include "dynatrain/base/log.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

/// Installs a sink for one test and puts the former one back.
class ScopedSink {
 public:
  explicit ScopedSink(LogSink sink) : former_(set_log_sink(std::move(sink))) {}
  ~ScopedSink() { set_log_sink(std::move(former_)); }
  ScopedSink(const ScopedSink&) = delete;
  ScopedSink& operator=(const ScopedSink&) = delete;

 private:
  LogSink former_;
};

// The library is silent by default: a line without a sink goes nowhere and costs nothing.
TEST(Log, IsSilentWithoutASink) {
  const ScopedSink scoped(LogSink{});

  EXPECT_NO_THROW(log(LogLevel::kInfo, "plan", "unheard"));
}

// The binding routes lines by room and level; both must arrive with the text.
TEST(Log, HandsLevelRoomAndTextToTheSink) {
  std::vector<std::string> lines;
  const ScopedSink scoped([&lines](LogLevel level, std::string_view room, std::string_view text) {
    lines.push_back(std::to_string(static_cast<int>(level)) + " " + std::string(room) + " " +
                    std::string(text));
  });

  log(LogLevel::kWarning, "plan", "late");

  EXPECT_EQ(lines, std::vector<std::string>{"30 plan late"});
}

// Log lines come from destructors and callbacks; a sink that throws must not end the process.
TEST(Log, SwallowsWhatTheSinkThrows) {
  int calls = 0;
  const ScopedSink scoped([&calls](LogLevel, std::string_view, std::string_view) {
    ++calls;
    throw std::runtime_error("disk full");
  });

  log(LogLevel::kInfo, "plan", "one");
  log(LogLevel::kInfo, "plan", "two");

  EXPECT_EQ(calls, 2);
}

// A sink that logs would call itself for ever, or wait for itself.
TEST(Log, DropsLinesFromInsideTheSink) {
  int calls = 0;
  const ScopedSink scoped([&calls](LogLevel, std::string_view, std::string_view) {
    ++calls;
    log(LogLevel::kInfo, "log", "from inside");
  });

  log(LogLevel::kInfo, "plan", "from outside");

  EXPECT_EQ(calls, 1);
}

// Copier threads log at the same time; the sink is promised one call at a time.
TEST(Log, CallsTheSinkFromOneThreadAtATime) {
  std::atomic<int> inside{0};
  std::atomic<int> calls{0};
  std::atomic<bool> met{false};
  const ScopedSink scoped([&](LogLevel, std::string_view, std::string_view) {
    met = met || ++inside > 1;
    ++calls;
    std::this_thread::yield();
    --inside;
  });
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([] {
        for (int line = 0; line < 100; ++line) {
          log(LogLevel::kDebug, "execution", "busy");
        }
      });
    }
  }

  EXPECT_FALSE(met);
  EXPECT_EQ(calls, 400);
}

}  // namespace
}  // namespace dynatrain
