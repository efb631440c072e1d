#pragma once

#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/trace.hpp"

#include "fuzz/membership_lines.hpp"
#include "fuzz/target.hpp"
#include <span>
#include <string>
#include <vector>

/// A machine of the membership protocol that is given whatever can be read.
namespace dynatrain::fuzz {

/// The input that gives `lines` to a machine, some time after each other.
[[nodiscard]] inline std::string timed_lines(const std::vector<std::string>& lines) {
  std::string input;
  for (const std::string& line : lines) {
    input += static_cast<char>(20 + input.size() % 5 * 30) + line + '\n';
  }
  return input;
}

/// Gives the lines that can be read to `machine`, then all that it does to `look`. Returns the
/// trace: what a machine does can always be written down, and sent.
template <class Event, class Machine, class Look>
std::string run(Machine& machine, Draws draws, const Look& look) {
  std::string trace;
  std::int64_t now_ms = 0;
  while (!draws.is_over()) {
    const std::int64_t step = draws.number(0, 255);
    now_ms += step * step * step;  // from nothing to hours
    Event event;
    const std::string_view line = draws.until('\n');
    if (is_taken([&] { event = membership::decode<Event>(line); })) {
      const auto actions = machine.handle(now_ms, event);
      look(actions);
      trace += membership::trace_of(now_ms, event, std::span(actions));
    }
  }
  return trace;
}

}  // namespace dynatrain::fuzz
