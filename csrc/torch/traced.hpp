#pragma once

#include "dynatrain/base/log.hpp"
#include "dynatrain/membership/trace.hpp"

#include "torch/bind.hpp"
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace dynatrain::binding {

/// A machine of `membership`, and the lines of what went into it and came out of it from the
/// moment on that somebody has asked for them. A trace changes nothing of what the machine does: it
/// ends where a line of it cannot be written.
template <class Machine>
struct Traced {
  Machine machine;
  std::string lines;
  bool is_traced = false;

  explicit Traced(Machine begun) : machine(std::move(begun)) {}

  template <class Event>
  [[nodiscard]] auto handle(std::int64_t now_ms, const Event& event) {
    auto actions = machine.handle(now_ms, event);
    if (is_traced) {
      write(now_ms, event, actions);
    }
    return actions;
  }

 private:
  /// Never throws: the machine has moved, and its actions are to be taken.
  template <class Event, class Actions>
  void write(std::int64_t now_ms, const Event& event, const Actions& actions) noexcept {
    try {
      lines += membership::trace_of(now_ms, event, actions);
    } catch (const std::exception&) {
      is_traced = false;
      const py::gil_scoped_release no_gil;  // whoever logs holds the log's lock and waits for it
      log(LogLevel::kWarning,
          "membership",
          "the trace ends: a machine was told, or did, what no line of a trace can hold");
    }
  }
};

/// Where a machine differs from its trace: the line, what stands there, and what it did.
using Difference = std::tuple<std::int64_t, std::string, std::string>;

template <class Machine>
std::optional<Difference> replay(Traced<Machine>& self, const std::string& trace) {
  auto found = membership::replay_trace(self.machine, trace);
  if (!found) {
    return std::nullopt;
  }
  return Difference{found->line, std::move(found->expected), std::move(found->got)};
}

template <class Machine>
void bind_trace(py::class_<Traced<Machine>>& bound) {
  bound
      .def(
          "trace",
          [](Traced<Machine>& self, bool is_on) { self.is_traced = is_on; },
          py::arg("is_on"))
      .def("take_trace", [](Traced<Machine>& self) { return std::exchange(self.lines, {}); })
      .def("replay", &replay<Machine>, py::arg("trace"));
}

}  // namespace dynatrain::binding
