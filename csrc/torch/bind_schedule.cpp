#include "dynatrain/schedule/schedule.hpp"
#include "dynatrain/schedule/stream_plan.hpp"
#include "dynatrain/schedule/virtual_run.hpp"

#include "schedule/last_reads_codec.hpp"
#include "torch/bind.hpp"
#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

ScheduleOptions options_of(std::int64_t staging_budget_bytes,
                           std::int64_t direct_threshold_bytes,
                           int max_direct_per_pair,
                           int num_stages_to_overlap,
                           std::int64_t min_message_bytes,
                           bool with_sums) {
  return {.staging_budget_bytes = staging_budget_bytes,
          .direct_threshold_bytes = direct_threshold_bytes,
          .max_direct_per_pair = max_direct_per_pair,
          .num_stages_to_overlap = num_stages_to_overlap,
          .min_message_bytes = min_message_bytes,
          .with_sums = with_sums};
}

int stages_wanted(const NamedPlan& plan, const ScheduleOptions& options) {
  return num_stages_wanted(plan.plan, options);
}

Schedule schedule_for(const NamedPlan& plan,
                      const ShardMap& source,
                      const ShardMap& target,
                      int num_stages,
                      const ScheduleOptions& options) {
  return make_schedule(plan.plan, source, target, num_stages, options);
}

/// Totals over all stages, for reports and logs.
std::map<std::string, std::int64_t> summarize(const Schedule& self) {
  std::map<std::string, std::int64_t> out;
  for (const Stage& stage : self.stages) {
    for (const StageMessage& message : stage.sends) {
      out["sent_messages"] += 1;
      out["sent_direct_messages"] += message.direct ? 1 : 0;
      out["sent_bytes"] += message.size_bytes;
    }
    for (const StageMessage& message : stage.receives) {
      out["received_messages"] += 1;
      out["received_direct_messages"] += message.direct ? 1 : 0;
      out["received_bytes"] += message.size_bytes;
    }
    out["local_parts"] += static_cast<std::int64_t>(stage.locals.size());
  }
  return out;
}

/// What a rank holds in each stage of a run that streams, then the most that it holds, where each
/// tensor lies in a storage of its own.
std::pair<std::vector<std::int64_t>, std::int64_t> held_by_stage(
    const NamedPlan& plan,
    const Schedule& schedule,
    const ShardMap& source,
    const ShardMap& target,
    const std::string& last_reads_of_all) {
  const Storages from = storages_of(source, schedule.rank);
  const Storages to = storages_of(target, schedule.rank, plan.plan.adoptable);
  std::vector<int> kept;
  for (const TensorId tensor : plan.plan.adoptable) {
    if (const int storage = from.of_tensor[tensor.index()]; storage != Storages::kNone) {
      kept.push_back(storage);
    }
  }
  const StreamPlan streamed = make_stream_plan(
      schedule, decode_last_reads(last_reads_of_all, source.num_tensors()), from, kept, to);
  std::vector<std::int64_t> held;
  held.reserve(streamed.stages.size());
  for (const StreamStage& stage : streamed.stages) {
    held.push_back(stage.held_bytes);
  }
  return {std::move(held), streamed.peak_bytes};
}

void bind_virtual_run(py::module_& m) {
  py::class_<VirtualRun>(m, "VirtualRun")
      .def(py::init([](std::vector<int> node_of_rank,
                       const Topology& topology,
                       std::vector<double> begin_of_rank) {
             return VirtualRun(
                 {.node_of_rank = std::move(node_of_rank)}, topology, std::move(begin_of_rank));
           }),
           py::arg("node_of_rank"),
           py::arg("topology"),
           py::arg("begin_of_rank") = std::vector<double>{})
      .def(
          "add",
          [](VirtualRun& self,
             const NamedPlan& plan,
             const Schedule& schedule,
             const ShardMap& map) { self.add(plan.plan, schedule, map); },
          py::arg("plan"),
          py::arg("schedule"),
          py::arg("map"),
          NoGil())
      .def(
          "end_of_rank", [](const VirtualRun& self) { return self.run().end_of_rank; }, NoGil())
      .def(
          "times_of",
          [](const VirtualRun& self, int rank) {
            std::vector<std::array<double, 6>> out;
            for (const StageTimes& times : self.times_of(rank)) {
              out.push_back({times.pack_begin,
                             times.pack_end,
                             times.wire_begin,
                             times.wire_end,
                             times.unpack_begin,
                             times.unpack_end});
            }
            return out;
          },
          py::arg("rank"),
          NoGil());
}

}  // namespace

void bind_schedule(py::module_& m) {
  const ScheduleOptions usual;
  py::class_<ScheduleOptions>(m, "ScheduleOptions")
      .def(py::init(&options_of),
           py::arg("staging_budget_bytes") = usual.staging_budget_bytes,
           py::arg("direct_threshold_bytes") = usual.direct_threshold_bytes,
           py::arg("max_direct_per_pair") = usual.max_direct_per_pair,
           py::arg("num_stages_to_overlap") = usual.num_stages_to_overlap,
           py::arg("min_message_bytes") = usual.min_message_bytes,
           py::arg("with_sums") = usual.with_sums)
      .def_readonly("staging_budget_bytes", &ScheduleOptions::staging_budget_bytes)
      .def_readonly("direct_threshold_bytes", &ScheduleOptions::direct_threshold_bytes)
      .def_readonly("max_direct_per_pair", &ScheduleOptions::max_direct_per_pair)
      .def_readonly("num_stages_to_overlap", &ScheduleOptions::num_stages_to_overlap)
      .def_readonly("min_message_bytes", &ScheduleOptions::min_message_bytes)
      .def_readonly("with_sums", &ScheduleOptions::with_sums);
  m.def("held_by_stage",
        &held_by_stage,
        py::arg("plan"),
        py::arg("schedule"),
        py::arg("source"),
        py::arg("target"),
        py::arg("last_reads_of_all"),
        NoGil());
  py::class_<Schedule>(m, "Schedule")
      .def_readonly("rank", &Schedule::rank)
      .def_property_readonly("num_stages", [](const Schedule& self) { return self.stages.size(); })
      .def_readonly("slot_bytes", &Schedule::slot_bytes)
      .def_readonly("staging_peak_bytes", &Schedule::staging_peak_bytes)
      .def("summary", &summarize);
  bind_virtual_run(m);
  m.def("num_stages_wanted", &stages_wanted, py::arg("plan"), py::arg("options"), NoGil());
  m.def("make_schedule",
        &schedule_for,
        py::arg("plan"),
        py::arg("source"),
        py::arg("target"),
        py::arg("num_stages"),
        py::arg("options"),
        NoGil());
}

}  // namespace dynatrain::binding
