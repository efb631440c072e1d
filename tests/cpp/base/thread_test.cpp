#include "dynatrain/base/thread.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "no_more_threads.hpp"
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

// A handler of the script must interrupt what the script waits in, not a copy of the library.
TEST(StartThread, NoSignalOfTheProcessIsDeliveredToIt) {
  sigset_t blocked;
  start_thread("is a test", [&blocked] { pthread_sigmask(SIG_SETMASK, nullptr, &blocked); }).join();
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);

  EXPECT_EQ(sigismember(&blocked, SIGINT), 1);
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
  EXPECT_EQ(sigismember(&blocked, SIGSEGV), 0);  // or nobody hears of a crash there
  EXPECT_EQ(sigismember(&own, SIGINT), 0);
}

/// Whether the limits let one of a hundred threads start, then are an error of the library.
bool runs_out_with_an_error() {
  bool has_failed = false;
  with_few_threads([&has_failed] {
    std::atomic<bool> is_over = false;
    std::vector<std::thread> threads;
    try {
      for (int i = 0; i < 100; ++i) {
        threads.push_back(start_thread("is a test", [&is_over] { is_over.wait(false); }));
      }
    } catch (const DeviceError& error) {
      has_failed = std::string(error.what()).find("no thread that is a test") != std::string::npos;
    }
    is_over = true;
    is_over.notify_all();
    for (std::thread& thread : threads) {
      thread.join();
    }
  });
  return has_failed;
}

// std::system_error is none of the library's errors: nobody catches it.
TEST(StartThreadDeathTest, WhereTheSystemGivesNoThreadItIsAnErrorOfTheLibrary) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  EXPECT_EXIT(std::exit(runs_out_with_an_error() ? 0 : 1), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace dynatrain
