#pragma once

#include <cstdint>

namespace dynatrain::membership {

/// How long is waited for what, in milliseconds. make_deadlines() derives all from one number; a
/// caller may then change single ones, and check_deadlines() says whether they still fit together.
struct Deadlines {
  std::int64_t tick_ms = 0;        ///< both machines are given a Tick this often
  std::int64_t heartbeat_ms = 0;   ///< between two heartbeats of a member
  std::int64_t lost_after_ms = 0;  ///< without a heartbeat, a member is lost
  std::int64_t settle_ms = 0;      ///< membership is quiet this long before a change begins
  std::int64_t advice_ms = 0;      ///< for a script's policy; then it is chosen without
  std::int64_t promise_ms = 0;     ///< for all answers to one proposal
  std::int64_t hold_ms = 0;        ///< a member that has promised stands at the step, then gives up
  std::int64_t report_ms = 0;      ///< for all answers to Halt
  std::int64_t prepare_ms = 0;     ///< for all members to be prepared
  std::int64_t vote_ms = 0;        ///< from Go: the steps up to the switch, and the transfer
  std::int64_t decision_ms = 0;    ///< a member that has voted yes waits, then ends undecided
  std::int64_t abandon_ms = 0;  ///< a member that holds and hears nothing of the coordinator ends
  std::int64_t give_up_ms = 0;  ///< a state that is gone is waited for, where checkpoints are made
  std::int64_t keep_ms = 0;  ///< who leaves stays for its copies, where no newer ones become whole
  std::int64_t back_off_ms = 0;      ///< after a failed attempt; doubles with each further one ...
  std::int64_t back_off_cap_ms = 0;  ///< ... up to this
};

inline constexpr std::int64_t kDefaultTimeoutMs = 60'000;

/// Derives every deadline from `timeout_ms`, the longest that one transfer may take.
/// Errors   LayoutError when it is below 1200 (a heartbeat would be below 20 ms) or above a day.
/// Source   own; docs/design/membership.md, "Deadlines".
[[nodiscard]] Deadlines make_deadlines(std::int64_t timeout_ms = kDefaultTimeoutMs);

/// Errors   LayoutError naming a deadline that is below 1 ms or above ten days, or the two that are
/// in the wrong order, and why it matters.
void check_deadlines(const Deadlines& deadlines);

}  // namespace dynatrain::membership
