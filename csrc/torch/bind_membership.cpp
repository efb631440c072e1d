#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/worker.hpp"

#include "torch/bind.hpp"
#include "torch/membership_actions.hpp"
#include "torch/membership_records.hpp"
#include "torch/traced.hpp"
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace dynatrain::binding {
namespace {

using membership::Coordinator;
using membership::CoordinatorAction;
using membership::CoordinatorEvent;
using membership::FromWorker;
using membership::MemberId;
using membership::Worker;
using membership::WorkerAction;
using membership::WorkerEvent;

py::dict as_dict(const membership::Status& status) {
  py::list members;
  for (const membership::MemberStatus& each : status.members) {
    py::dict out;
    out["id"] = each.id.value;
    out["host"] = each.host;
    out["machine"] = each.machine;
    out["role"] = std::string(membership::role_name(each.role));
    out["rank"] = each.rank;
    out["epoch"] = each.epoch;
    out["version"] = each.version;
    out["last_heard_ms"] = each.last_heard_ms;
    members.append(out);
  }
  py::list refused;
  for (const membership::RefusedLayout& each : status.refused_layouts) {
    refused.append(py::dict(py::arg("layout") = each.layout, py::arg("why") = each.why));
  }
  py::dict out;
  out["members"] = members;
  out["world"] = world_dict(status.world);
  out["phase"] = std::string(membership::phase_name(status.phase));
  out["attempt"] = status.attempt;
  out["waits_for"] = status.waits_for;
  out["seconds_left"] = status.seconds_left;
  out["wish"] = status.wish;
  out["last_failure"] = status.last_failure;
  out["refused_layouts"] = refused;
  out["num_stale"] = status.num_stale;
  out["num_lost"] = status.num_lost;
  return out;
}

py::dict read_description(const std::string& line) {
  const auto read = membership::decode<membership::Description>(line);
  py::dict out;
  out["attempt"] = read.attempt;
  out["is_recovery"] = read.kind == membership::ChangeKind::kRecovery;
  out["source"] = world_dict(read.source);
  out["target"] = world_dict(read.target);
  std::vector<int> holdings(read.holdings.size());
  std::ranges::transform(
      read.holdings, holdings.begin(), [](auto each) { return static_cast<int>(each); });
  out["holdings"] = holdings;
  std::vector<std::uint64_t> former(read.former.size());
  std::ranges::transform(read.former, former.begin(), &MemberId::value);
  out["former"] = former;
  out["cold_because"] = read.cold_because;
  return out;
}

using TracedCoordinator = Traced<Coordinator>;
using TracedWorker = Traced<Worker>;

TracedCoordinator make_coordinator(const std::vector<std::pair<std::string, int>>& layouts,
                                   std::int64_t timeout_ms,
                                   const std::vector<std::string>& records,
                                   std::int64_t now_ms) {
  std::vector<membership::LayoutChoice> choices;
  choices.reserve(layouts.size());
  for (const auto& [layout, world_size] : layouts) {
    choices.push_back({layout, world_size});
  }
  std::vector<membership::Record> read;
  read.reserve(records.size());
  for (const std::string& line : records) {
    read.push_back(membership::decode<membership::Record>(line));
  }
  membership::CoordinatorOptions options;
  options.policy = membership::first_that_fits(std::move(choices));
  options.deadlines = membership::make_deadlines(timeout_ms);
  return TracedCoordinator(
      Coordinator(std::move(options), membership::replay_ledger(read), now_ms));
}

/// `place` is what people call the host, and its machine.
TracedWorker make_worker(std::uint64_t id,
                         std::pair<std::string, std::string> place,
                         std::int64_t timeout_ms,
                         std::int64_t now_ms,
                         bool has_checkpoints,
                         std::string settings) {
  const membership::Deadlines deadlines = membership::make_deadlines(timeout_ms);
  return TracedWorker(Worker({MemberId{id},
                              std::move(place.first),
                              deadlines,
                              has_checkpoints,
                              std::move(settings),
                              std::move(place.second)},
                             now_ms));
}

py::list handle(TracedWorker& self, std::int64_t now_ms, const WorkerEvent& event) {
  return actions(self.handle(now_ms, event));
}

py::list handle(TracedCoordinator& self, std::int64_t now_ms, const CoordinatorEvent& event) {
  return actions(self.handle(now_ms, event));
}

/// Who says a message; a connection speaks for one member alone.
std::uint64_t speaker(const std::string& line) {
  return std::visit([](const auto& message) { return message.id.value; },
                    membership::decode<FromWorker>(line));
}

/// The deadlines that others must fit between: those of a coordinator's lease, and of its silence.
py::dict deadlines(std::int64_t timeout_ms) {
  const membership::Deadlines all = membership::make_deadlines(timeout_ms);
  py::dict out;
  out["heartbeat_ms"] = all.heartbeat_ms;
  out["lost_after_ms"] = all.lost_after_ms;
  out["decision_ms"] = all.decision_ms;
  out["abandon_ms"] = all.abandon_ms;
  return out;
}

std::vector<MemberId> ids_of(const std::vector<std::uint64_t>& values) {
  std::vector<MemberId> out(values.size());
  std::ranges::transform(values, out.begin(), [](std::uint64_t value) { return MemberId{value}; });
  return out;
}

// The lambdas spell out what Python passes; they build the events that the machine takes.
// NOLINTBEGIN(readability-function-size)
void bind_coordinator(py::module_& m) {
  auto bound = py::class_<TracedCoordinator>(m, "MembershipCoordinator");
  bind_trace(bound);
  bound
      .def(py::init(&make_coordinator),
           py::arg("layouts"),
           py::arg("timeout_ms"),
           py::arg("records"),
           py::arg("now_ms"))
      .def(
          "heard",
          [](TracedCoordinator& self, std::int64_t now_ms, const std::string& line) {
            return handle(self, now_ms, membership::decode<FromWorker>(line));
          },
          py::arg("now_ms"),
          py::arg("line"))
      .def(
          "resize",
          [](TracedCoordinator& self, std::int64_t now_ms, const std::string& layout) {
            return handle(self, now_ms, membership::Resize{layout});
          },
          py::arg("now_ms"),
          py::arg("layout"))
      .def(
          "drain",
          [](TracedCoordinator& self, std::int64_t now_ms, std::uint64_t id) {
            return handle(self, now_ms, membership::Drain{MemberId{id}});
          },
          py::arg("now_ms"),
          py::arg("member"))
      .def(
          "connection_closed",
          [](TracedCoordinator& self, std::int64_t now_ms, std::uint64_t id) {
            return handle(self, now_ms, membership::ConnectionClosed{MemberId{id}});
          },
          py::arg("now_ms"),
          py::arg("member"))
      .def(
          "advises",
          [](TracedCoordinator& self, std::int64_t now_ms, std::uint64_t id) {
            return handle(self, now_ms, membership::Advises{MemberId{id}});
          },
          py::arg("now_ms"),
          py::arg("member"))
      .def(
          "advice",
          [](TracedCoordinator& self,
             std::int64_t now_ms,
             std::int64_t number,
             std::string layout,
             int world_size,
             std::string why) {
            return handle(
                self,
                now_ms,
                membership::Advice{number, std::move(layout), world_size, std::move(why)});
          },
          py::arg("now_ms"),
          py::arg("number"),
          py::arg("layout"),
          py::arg("world_size"),
          py::arg("why"))
      .def(
          "tick",
          [](TracedCoordinator& self, std::int64_t now_ms) {
            return handle(self, now_ms, membership::Tick{});
          },
          py::arg("now_ms"))
      .def(
          "status",
          [](const TracedCoordinator& self, std::int64_t now_ms) {
            return as_dict(self.machine.status(now_ms));
          },
          py::arg("now_ms"))
      .def(
          "why_not",
          [](const TracedCoordinator& self, const std::string& layout, std::int64_t epoch) {
            return self.machine.why_not(layout, epoch);
          },
          py::arg("layout"),
          py::arg("epoch"))
      .def("stands_because",
           [](const TracedCoordinator& self) { return self.machine.stands_because(); });
}

void bind_worker(py::module_& m) {
  auto bound = py::class_<TracedWorker>(m, "MembershipWorker");
  bind_trace(bound);
  bound
      .def(py::init(&make_worker),
           py::arg("id"),
           py::arg("place"),
           py::arg("timeout_ms"),
           py::arg("now_ms"),
           py::arg("has_checkpoints") = false,
           py::arg("settings") = "")
      .def(
          "heard",
          [](TracedWorker& self, std::int64_t now_ms, const std::string& line) {
            const auto message = membership::decode<membership::FromCoordinator>(line);
            return handle(self, now_ms, message);
          },
          py::arg("now_ms"),
          py::arg("line"))
      .def(
          "at_boundary",
          [](TracedWorker& self, std::int64_t now_ms, std::int64_t version) {
            return handle(self, now_ms, membership::AtBoundary{version});
          },
          py::arg("now_ms"),
          py::arg("version"))
      .def(
          "step_broke",
          [](TracedWorker& self, std::int64_t now_ms, const std::vector<std::uint64_t>& suspects) {
            return handle(self, now_ms, membership::StepBroke{ids_of(suspects)});
          },
          py::arg("now_ms"),
          py::arg("suspects"))
      .def(
          "prepare_done",
          [](TracedWorker& self, std::int64_t now_ms, std::int64_t attempt) {
            return handle(self, now_ms, membership::PrepareDone{attempt});
          },
          py::arg("now_ms"),
          py::arg("attempt"))
      .def(
          "prepare_broke",
          [](TracedWorker& self,
             std::int64_t now_ms,
             std::int64_t attempt,
             std::string why,
             bool is_uncovered,
             bool is_refusal) {
            return handle(
                self,
                now_ms,
                membership::PrepareBroke{attempt, std::move(why), is_uncovered, is_refusal});
          },
          py::arg("now_ms"),
          py::arg("attempt"),
          py::arg("why"),
          py::arg("is_uncovered"),
          py::arg("is_refusal"))
      .def(
          "switch_moved",
          [](TracedWorker& self, std::int64_t now_ms, std::int64_t attempt) {
            return handle(self, now_ms, membership::SwitchMoved{attempt});
          },
          py::arg("now_ms"),
          py::arg("attempt"))
      .def(
          "switch_broke",
          [](TracedWorker& self,
             std::int64_t now_ms,
             std::int64_t attempt,
             std::string why,
             bool is_refusal) {
            return handle(
                self, now_ms, membership::SwitchBroke{attempt, std::move(why), is_refusal});
          },
          py::arg("now_ms"),
          py::arg("attempt"),
          py::arg("why"),
          py::arg("is_refusal"))
      .def(
          "stopped",
          [](TracedWorker& self,
             std::int64_t now_ms,
             std::int64_t version,
             bool is_clean,
             std::vector<std::int64_t> snapshots) {
            return handle(
                self, now_ms, membership::Stopped{version, is_clean, std::move(snapshots)});
          },
          py::arg("now_ms"),
          py::arg("version"),
          py::arg("is_clean"),
          py::arg("snapshots"))
      .def(
          "found",
          [](TracedWorker& self, std::int64_t now_ms, std::vector<std::int64_t> versions) {
            return handle(self, now_ms, membership::Found{std::move(versions)});
          },
          py::arg("now_ms"),
          py::arg("versions"))
      .def(
          "copied",
          [](TracedWorker& self, std::int64_t now_ms, std::int64_t epoch, bool is_on_disk) {
            return handle(self, now_ms, membership::Copied{epoch, is_on_disk});
          },
          py::arg("now_ms"),
          py::arg("epoch"),
          py::arg("is_on_disk"))
      .def(
          "leave_wanted",
          [](TracedWorker& self, std::int64_t now_ms, std::int64_t grace_ms) {
            return handle(self, now_ms, membership::LeaveWanted{grace_ms});
          },
          py::arg("now_ms"),
          py::arg("grace_ms"))
      .def(
          "script_finished",
          [](TracedWorker& self, std::int64_t now_ms) {
            return handle(self, now_ms, membership::ScriptFinished{});
          },
          py::arg("now_ms"))
      .def(
          "tick",
          [](TracedWorker& self, std::int64_t now_ms) {
            return handle(self, now_ms, membership::Tick{});
          },
          py::arg("now_ms"))
      .def_property_readonly("epoch", [](const TracedWorker& self) { return self.machine.epoch(); })
      .def_property_readonly("version",
                             [](const TracedWorker& self) { return self.machine.version(); })
      .def("holds_because", [](const TracedWorker& self) { return self.machine.holds_because(); });
}
// NOLINTEND(readability-function-size)

}  // namespace

void bind_membership(py::module_& m) {
  bind_coordinator(m);
  bind_worker(m);
  m.def("membership_description", &read_description, py::arg("line"));
  m.def("membership_record", &read_record, py::arg("line"));
  m.def("membership_speaker", &speaker, py::arg("line"));
  m.def(
      "membership_tick_ms",
      [](std::int64_t timeout_ms) { return membership::make_deadlines(timeout_ms).tick_ms; },
      py::arg("timeout_ms"));
  m.def("membership_deadlines", &deadlines, py::arg("timeout_ms"));
}

}  // namespace dynatrain::binding
