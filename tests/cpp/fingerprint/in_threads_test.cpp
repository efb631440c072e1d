#include "fingerprint/in_threads.hpp"

#include <gtest/gtest.h>

#include "no_more_threads.hpp"
#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace dynatrain {
namespace {

std::int64_t num_done_with_few_threads() {
  std::atomic<std::int64_t> num_done = 0;
  with_few_threads(
      [&num_done] { in_threads(5000, 1000, [&num_done](std::int64_t) { ++num_done; }); });
  return num_done;
}

// Threads that stood while the next one was refused ended the process.
TEST(InThreadsDeathTest, AllItemsAreDoneOnTheThreadsThatTheSystemGives) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  EXPECT_EXIT(
      std::exit(num_done_with_few_threads() == 5000 ? 0 : 1), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace dynatrain
