#include "dynatrain/membership/deadlines.hpp"

#include "dynatrain/base/error.hpp"

#include <array>
#include <string>

namespace dynatrain::membership {
namespace {

constexpr std::int64_t kLeastTimeoutMs = 1200;
constexpr std::int64_t kDayMs = 24LL * 3600 * 1000;
/// What make_deadlines() derives from a day stays within it, and so does the time plus a deadline.
constexpr std::int64_t kMostMs = 10 * kDayMs;

struct NamedDeadline {
  const char* name;
  std::int64_t Deadlines::* value;
};

constexpr std::array kAll{
    NamedDeadline{"tick_ms", &Deadlines::tick_ms},
    NamedDeadline{"heartbeat_ms", &Deadlines::heartbeat_ms},
    NamedDeadline{"lost_after_ms", &Deadlines::lost_after_ms},
    NamedDeadline{"settle_ms", &Deadlines::settle_ms},
    NamedDeadline{"advice_ms", &Deadlines::advice_ms},
    NamedDeadline{"promise_ms", &Deadlines::promise_ms},
    NamedDeadline{"hold_ms", &Deadlines::hold_ms},
    NamedDeadline{"report_ms", &Deadlines::report_ms},
    NamedDeadline{"prepare_ms", &Deadlines::prepare_ms},
    NamedDeadline{"vote_ms", &Deadlines::vote_ms},
    NamedDeadline{"decision_ms", &Deadlines::decision_ms},
    NamedDeadline{"abandon_ms", &Deadlines::abandon_ms},
    NamedDeadline{"give_up_ms", &Deadlines::give_up_ms},
    NamedDeadline{"keep_ms", &Deadlines::keep_ms},
    NamedDeadline{"back_off_ms", &Deadlines::back_off_ms},
    NamedDeadline{"back_off_cap_ms", &Deadlines::back_off_cap_ms},
};

/// `first_ms` times `factor` must lie below `second_ms`.
struct OrderRule {
  const char* first_name;
  std::int64_t Deadlines::* first;
  std::int64_t factor;
  const char* second_name;
  std::int64_t Deadlines::* second;
  const char* why;
};

constexpr std::array kRules{
    OrderRule{"tick_ms",
              &Deadlines::tick_ms,
              1,
              "heartbeat_ms",
              &Deadlines::heartbeat_ms,
              "a heartbeat is sent at a tick"},
    OrderRule{"heartbeat_ms",
              &Deadlines::heartbeat_ms,
              3,
              "lost_after_ms",
              &Deadlines::lost_after_ms,
              "two heartbeats may go astray before a member is lost"},
    OrderRule{"advice_ms",
              &Deadlines::advice_ms,
              1,
              "abandon_ms",
              &Deadlines::abandon_ms,
              "a halted member outlasts the policy of a script"},
    OrderRule{"lost_after_ms",
              &Deadlines::lost_after_ms,
              1,
              "promise_ms",
              &Deadlines::promise_ms,
              "a dead member is to be lost, not late with its promise"},
    OrderRule{"lost_after_ms",
              &Deadlines::lost_after_ms,
              1,
              "report_ms",
              &Deadlines::report_ms,
              "a dead member is to be lost, not late with its report"},
    OrderRule{"promise_ms",
              &Deadlines::promise_ms,
              1,
              "hold_ms",
              &Deadlines::hold_ms,
              "a member that has promised waits until the others had time to"},
    OrderRule{"hold_ms",
              &Deadlines::hold_ms,
              1,
              "vote_ms",
              &Deadlines::vote_ms,
              "a member that has given up is to be heard before the vote ends"},
    OrderRule{"vote_ms",
              &Deadlines::vote_ms,
              1,
              "decision_ms",
              &Deadlines::decision_ms,
              "a member that has voted waits longer than the vote of all may take"},
    OrderRule{"lost_after_ms",
              &Deadlines::lost_after_ms,
              1,
              "prepare_ms",
              &Deadlines::prepare_ms,
              "a dead member is to be lost, not late with preparing"},
    OrderRule{"report_ms",
              &Deadlines::report_ms,
              1,
              "abandon_ms",
              &Deadlines::abandon_ms,
              "a halted member outlasts the reports of the others"},
    OrderRule{"decision_ms",
              &Deadlines::decision_ms,
              1,
              "abandon_ms",
              &Deadlines::abandon_ms,
              "a halted member outlasts one attempt to recover"},
    OrderRule{"back_off_cap_ms",
              &Deadlines::back_off_cap_ms,
              2,
              "give_up_ms",
              &Deadlines::give_up_ms,
              "checkpoints are looked for again before a member gives the state up"},
    OrderRule{"give_up_ms",
              &Deadlines::give_up_ms,
              1,
              "abandon_ms",
              &Deadlines::abandon_ms,
              "who waits for a state ends for its sake, and not for a coordinator that is silent"},
};

void check_range(const char* name, std::int64_t value_ms) {
  if (value_ms < 1 || value_ms > kMostMs) {
    throw LayoutError("membership: cannot use " + std::string(name) + "=" +
                      std::to_string(value_ms) + "\n  a deadline is from 1 ms up to " +
                      std::to_string(kMostMs) +
                      " ms, ten days\n  nothing was started\n  derive it from one timeout_ms, or "
                      "change it");
  }
}

}  // namespace

Deadlines make_deadlines(std::int64_t timeout_ms) {
  if (timeout_ms < kLeastTimeoutMs || timeout_ms > kDayMs) {
    throw LayoutError("membership: cannot use timeout_ms=" + std::to_string(timeout_ms) +
                      "\n  it is from " + std::to_string(kLeastTimeoutMs) + " ms up to a day (" +
                      std::to_string(kDayMs) + " ms)\n  nothing was started");
  }
  return Deadlines{
      .tick_ms = timeout_ms / 240,
      .heartbeat_ms = timeout_ms / 60,
      .lost_after_ms = timeout_ms / 12,
      .settle_ms = timeout_ms / 120,
      .advice_ms = timeout_ms / 12,
      .promise_ms = timeout_ms / 6,
      .hold_ms = timeout_ms / 3,
      .report_ms = timeout_ms / 6,
      .prepare_ms = 5 * timeout_ms,
      .vote_ms = 2 * timeout_ms,
      .decision_ms = 4 * timeout_ms,
      .abandon_ms = 10 * timeout_ms,
      .give_up_ms = 5 * timeout_ms,
      .keep_ms = timeout_ms,
      .back_off_ms = timeout_ms / 60,
      .back_off_cap_ms = timeout_ms,
  };
}

void check_deadlines(const Deadlines& deadlines) {
  for (const NamedDeadline& deadline : kAll) {
    check_range(deadline.name, deadlines.*deadline.value);
  }
  for (const OrderRule& rule : kRules) {
    const std::int64_t first_ms = deadlines.*rule.first;
    const std::int64_t second_ms = deadlines.*rule.second;
    // Divided, not multiplied: a factor times any number might not fit.
    if (first_ms >=
        second_ms / rule.factor + static_cast<std::int64_t>(second_ms % rule.factor != 0)) {
      const std::string times = rule.factor == 1 ? "" : std::to_string(rule.factor) + " * ";
      throw LayoutError(
          "membership: cannot use " + std::string(rule.first_name) + "=" +
          std::to_string(first_ms) + " with " + rule.second_name + "=" + std::to_string(second_ms) +
          "\n  " + times + rule.first_name + " must be less than " + rule.second_name + ": " +
          rule.why + "\n  nothing was started\n  derive both from one timeout_ms, or change one");
    }
  }
  if (deadlines.back_off_ms > deadlines.back_off_cap_ms) {
    throw LayoutError(
        "membership: cannot use back_off_ms=" + std::to_string(deadlines.back_off_ms) +
        " with back_off_cap_ms=" + std::to_string(deadlines.back_off_cap_ms) +
        "\n  the first pause must not be longer than the longest\n  nothing was started");
  }
}

}  // namespace dynatrain::membership
