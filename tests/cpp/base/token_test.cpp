#include "dynatrain/base/token.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

using std::chrono::milliseconds;

std::exception_ptr error_saying(const char* text) {
  return std::make_exception_ptr(std::runtime_error(text));
}

// Code that had nothing to submit hands out empty tokens; waiting for one must cost nothing.
TEST(Token, EmptyIsDone) {
  const Token token;

  EXPECT_TRUE(token.done());
  EXPECT_NO_THROW(token.wait(deadline_in(milliseconds(0))));
}

// A waiter sleeps until another thread ends the operation.
TEST(HostCompletion, WakesAWaiterInAnotherThread) {
  const auto completion = std::make_shared<HostCompletion>();
  const Token token(completion);
  std::jthread worker([&completion] { completion->set(); });

  token.wait(deadline_in(milliseconds(10000)));

  EXPECT_TRUE(token.done());
}

// Several parts of the pipeline may wait for one operation; all must learn that it failed.
TEST(HostCompletion, GivesItsErrorToEveryWaiter) {
  HostCompletion completion;
  completion.fail(error_saying("peer gone"));

  EXPECT_TRUE(completion.done());
  EXPECT_THROW(completion.wait(deadline_in(milliseconds(0))), std::runtime_error);
  EXPECT_THROW(completion.wait(deadline_in(milliseconds(0))), std::runtime_error);
}

// An abort may race with the end of the operation; what came first stays.
TEST(HostCompletion, KeepsItsFirstEnd) {
  HostCompletion completion;
  completion.set();
  completion.fail(error_saying("too late"));

  EXPECT_NO_THROW(completion.wait(deadline_in(milliseconds(0))));
}

// Law 6: every wait has a deadline, and passing it is an error of the transport family.
TEST(HostCompletion, ThrowsAtTheDeadline) {
  HostCompletion completion;

  EXPECT_THROW(completion.wait(deadline_in(milliseconds(1))), TransportError);
  EXPECT_FALSE(completion.done());
}

// Memory is freed after wait_all: it must not return early because the first operation failed.
TEST(WaitAll, ThrowsTheFirstErrorAfterAllHaveEnded) {
  const auto failed = std::make_shared<HostCompletion>();
  const auto slow = std::make_shared<HostCompletion>();
  const auto failed_later = std::make_shared<HostCompletion>();
  failed->fail(error_saying("first"));
  failed_later->fail(error_saying("second"));
  const std::vector<Token> tokens{Token(failed), Token(slow), Token(failed_later)};
  std::jthread worker([&slow] { slow->set(); });

  try {
    wait_all(tokens, deadline_in(milliseconds(10000)));
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "first");
  }
  EXPECT_TRUE(slow->done());
}

// A peer that never answers must not hold the others for ever.
TEST(WaitAll, EndsAtTheDeadline) {
  const std::vector<Token> tokens{Token(std::make_shared<HostCompletion>())};

  EXPECT_THROW(wait_all(tokens, deadline_in(milliseconds(1))), TransportError);
}

}  // namespace
}  // namespace dynatrain
