#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/worker.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

/// What went into a machine and what came out of it, to be looked at, and run again. A line is
/// `<ms> event <line>` or `<ms> action <line>`; the actions of an event follow it.
namespace dynatrain::membership {

/// Returns the lines of one call of handle(), each with its end of line.
[[nodiscard]] std::string trace_of(std::int64_t now_ms,
                                   const CoordinatorEvent& event,
                                   std::span<const CoordinatorAction> actions);
[[nodiscard]] std::string trace_of(std::int64_t now_ms,
                                   const WorkerEvent& event,
                                   std::span<const WorkerAction> actions);

/// Where a machine did something else than its trace says.
struct TraceDifference {
  std::int64_t line = 0;  ///< of the trace, from 1 on
  std::string expected;   ///< empty where the trace has no further action
  std::string got;        ///< empty where the machine has none
};

/// Gives the events of a trace to a machine that begins as the traced one did, and returns the
/// first difference between what it does and what the trace says. Errors   LayoutError naming the
/// line, when one cannot be read or the time goes back.
[[nodiscard]] std::optional<TraceDifference> replay_trace(Coordinator& machine,
                                                          std::string_view trace);
[[nodiscard]] std::optional<TraceDifference> replay_trace(Worker& machine, std::string_view trace);

}  // namespace dynatrain::membership
