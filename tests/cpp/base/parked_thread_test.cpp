#include "base/parked_thread.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "no_more_threads.hpp"
#include <atomic>
#include <cstdlib>
#include <thread>

namespace dynatrain {
namespace {

TEST(ParkedThread, DoesOnePieceOfWorkBehindTheOther) {
  ParkedThread thread("is a test");
  int num_done = 0;
  for (int i = 0; i < 100; ++i) {
    thread.begin([&num_done] { ++num_done; });
    thread.join();
    ASSERT_EQ(num_done, i + 1);
  }
  thread.join();
}

TEST(ParkedThread, IsNotTheThreadThatAsks) {
  ParkedThread thread("is a test");
  std::thread::id found;
  thread.begin([&found] { found = std::this_thread::get_id(); });
  thread.join();

  EXPECT_NE(found, std::this_thread::get_id());
  EXPECT_NE(found, std::thread::id());
}

TEST(ParkedThread, RefusesWorkWhileItHasSome) {
  std::atomic<bool> is_over = false;
  ParkedThread thread("is a test");
  thread.begin([&is_over] { is_over.wait(false); });

  EXPECT_THROW(thread.begin([] {}), InternalError);
  is_over = true;
  is_over.notify_all();
}

TEST(ParkedThread, WhatIsUnderWayEndsBeforeItDoes) {
  std::atomic<bool> may_end = false;
  bool has_ended = false;
  {
    ParkedThread thread("is a test");
    thread.begin([&] {
      may_end.wait(false);
      has_ended = true;
    });
    may_end = true;
    may_end.notify_all();
  }
  EXPECT_TRUE(has_ended);
}

/// Whether it works where the system gives no further thread.
bool works_without_a_further_thread() {
  bool is_done = false;
  ParkedThread thread("is a test");
  with_few_threads([&] {
    thread.begin([&is_done] { is_done = true; });
    thread.join();
  });
  return is_done;
}

// A run whose source was being freed was refused one: the state of all ranks was lost.
TEST(ParkedThreadDeathTest, NeedsNoThreadOnceItIsMade) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  EXPECT_EXIT(
      std::exit(works_without_a_further_thread() ? 0 : 1), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace dynatrain
