#include "dynatrain/base/error.hpp"

#include "dynatrain/base/checked.hpp"

#include <gtest/gtest.h>

#include <string>

namespace dynatrain {
namespace {

// The text of an error is for users; the place is for us, and must be the throwing line itself, not
// a line of the header that declares the class.
TEST(Error, KnowsTheLineThatThrewIt) {
  unsigned line = 0;
  try {
    line = __LINE__ + 1;
    throw LayoutError("layout: refused");
  } catch (const Error& error) {
    EXPECT_EQ(error.where().line(), line);
    EXPECT_NE(std::string(error.where().file_name()).find("error_test.cpp"), std::string::npos);
    EXPECT_EQ(std::string(error.what()), "layout: refused");
  }
}

// Callers decide by fields, never by reading text.
TEST(Error, CarriesFactsAsFields) {
  const BudgetError budget("over", 12, 8);
  const TransportError transport("late", 3, 7, true);

  EXPECT_EQ(budget.required_bytes, 12);
  EXPECT_EQ(budget.budget_bytes, 8);
  EXPECT_EQ(transport.peer, 3);
  EXPECT_EQ(transport.stage, 7);
  EXPECT_TRUE(transport.retryable);
}

// A broken invariant is our bug: the message must say so and ask for a report.
TEST(Check, ThrowsInternalErrorThatAsksForAReport) {
  const int moves = 3;
  try {
    DYNATRAIN_CHECK(moves == 4, "the plan lost a move");
    FAIL() << "nothing was thrown";
  } catch (const InternalError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("the plan lost a move"), std::string::npos);
    EXPECT_NE(text.find("moves == 4"), std::string::npos);
    EXPECT_NE(text.find("report"), std::string::npos);
    EXPECT_NE(std::string(error.where().file_name()).find("error_test.cpp"), std::string::npos);
  }
}

// A size that wrapped around would plan a switch of the wrong bytes.
TEST(Checked, RefusesWhatDoesNotFit64Bits) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 62U;

  EXPECT_EQ(checked_mul(1 << 20, 1 << 20), std::int64_t{1} << 40U);
  EXPECT_THROW(static_cast<void>(checked_mul(kHuge, 2)), LayoutError);
  EXPECT_THROW(static_cast<void>(checked_add(kHuge, kHuge)), LayoutError);
}

// The chunk rule stands on it: 10 elements over 4 ranks are chunks of 3.
TEST(Checked, CeilDivRoundsUp) {
  EXPECT_EQ(ceil_div(10, 4), 3);
  EXPECT_EQ(ceil_div(8, 4), 2);
  EXPECT_EQ(ceil_div(0, 4), 0);
}

}  // namespace
}  // namespace dynatrain
