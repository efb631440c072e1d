#include "dynatrain/membership/trace.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/membership/text.hpp"

#include <algorithm>
#include <charconv>
#include <memory>
#include <vector>

namespace dynatrain::membership {
namespace {

template <class Event, class Action>
std::string lines_of(std::int64_t now_ms, const Event& event, std::span<const Action> actions) {
  const std::string time = std::to_string(now_ms);
  std::string lines = time + " event " + encode(event) + '\n';
  for (const Action& action : actions) {
    lines += time + " action " + encode(action) + '\n';
  }
  return lines;
}

struct TraceLine {
  std::int64_t number = 0;
  std::int64_t now_ms = 0;
  bool is_event = false;
  std::string_view text;
};

[[noreturn]] void refuse_line(std::int64_t number, const std::string& why) {
  throw LayoutError("membership: cannot read line " + std::to_string(number) + " of a trace\n  " +
                    why + "\n  the lines before it were run");
}

TraceLine split(std::int64_t number, std::string_view line) {
  TraceLine result;
  result.number = number;
  const char* const end = std::to_address(line.end());
  const auto [stopped, status] = std::from_chars(std::to_address(line.begin()), end, result.now_ms);
  if (status != std::errc{} || result.now_ms < 0 || result.now_ms > kMaxNumber) {
    refuse_line(number, "it does not begin with a time in ms, of 0 to 2^53");
  }
  line.remove_prefix(static_cast<std::size_t>(stopped - line.data()));
  constexpr std::string_view event = " event ";
  constexpr std::string_view action = " action ";
  result.is_event = line.starts_with(event);
  if (!result.is_event && !line.starts_with(action)) {
    refuse_line(number, "neither 'event' nor 'action' stands behind the time");
  }
  result.text = line.substr(result.is_event ? event.size() : action.size());
  return result;
}

std::vector<TraceLine> split_all(std::string_view trace) {
  std::vector<TraceLine> lines;
  std::int64_t number = 0;
  while (!trace.empty()) {
    const std::size_t end = trace.find('\n');
    ++number;
    lines.push_back(split(number, trace.substr(0, end)));
    if (lines.size() > 1 && lines.back().now_ms < lines[lines.size() - 2].now_ms) {
      refuse_line(number, "the time goes back");
    }
    trace = end == std::string_view::npos ? std::string_view{} : trace.substr(end + 1);
  }
  return lines;
}

template <class Event>
Event event_of(const TraceLine& line) {
  try {
    return decode<Event>(line.text);
  } catch (const LayoutError& error) {
    refuse_line(line.number, error.what());
  }
}

/// Compares the actions of one event with the lines from `begin` on, up to the next event.
template <class Action>
std::optional<TraceDifference> compare(const std::vector<Action>& actions,
                                       const std::vector<TraceLine>& lines,
                                       std::size_t begin) {
  for (std::size_t i = begin; true; ++i) {
    const bool has_line = i < lines.size() && !lines[i].is_event;
    const bool has_action = i - begin < actions.size();
    if (!has_line && !has_action) {
      return std::nullopt;
    }
    const std::string expected = has_line ? std::string(lines[i].text) : std::string();
    const std::string got = has_action ? encode(actions[i - begin]) : std::string();
    if (expected != got) {
      const std::int64_t number = has_line ? lines[i].number : lines[i - 1].number + 1;
      return TraceDifference{number, expected, got};
    }
  }
}

template <class Event, class Machine>
std::optional<TraceDifference> replay(Machine& machine, std::string_view trace) {
  const std::vector<TraceLine> lines = split_all(trace);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].is_event) {
      const auto actions = machine.handle(lines[i].now_ms, event_of<Event>(lines[i]));
      if (auto difference = compare(actions, lines, i + 1)) {
        return difference;
      }
    } else if (i == 0) {
      refuse_line(lines[i].number, "an action stands before the first event");
    }
  }
  return std::nullopt;
}

}  // namespace

std::string trace_of(std::int64_t now_ms,
                     const CoordinatorEvent& event,
                     std::span<const CoordinatorAction> actions) {
  return lines_of(now_ms, event, actions);
}

std::string trace_of(std::int64_t now_ms,
                     const WorkerEvent& event,
                     std::span<const WorkerAction> actions) {
  return lines_of(now_ms, event, actions);
}

std::optional<TraceDifference> replay_trace(Coordinator& machine, std::string_view trace) {
  return replay<CoordinatorEvent>(machine, trace);
}

std::optional<TraceDifference> replay_trace(Worker& machine, std::string_view trace) {
  return replay<WorkerEvent>(machine, trace);
}

}  // namespace dynatrain::membership
