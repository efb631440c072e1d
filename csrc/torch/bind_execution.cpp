#include "dynatrain/execution/executor.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"
#include "dynatrain/kernels/cuda_copier.hpp"

#include "schedule/last_reads_codec.hpp"
#include "torch/bind.hpp"
#include "torch/landed_parts.hpp"
#include "torch/state_table.hpp"
#include "torch/streaming_run.hpp"
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

using PySpan = std::tuple<std::string, int, int, double, double, std::int64_t>;

/// Begin and end of a range, as Python functions.
using PyRanges = std::pair<py::function, py::function>;

/// A watermark ends its thread, which may wait for one that needs the GIL.
struct WithoutGil {
  void operator()(Watermark* watermark) const {
    const py::gil_scoped_release no_gil;
    delete watermark;  // NOLINT(cppcoreguidelines-owning-memory): what a deleter is for
  }
};
using OwnedWatermark = std::unique_ptr<Watermark, WithoutGil>;

RangeHook hook_of(const std::optional<PyRanges>& ranges) {
  if (!ranges) {
    return {};
  }
  // By reference: copying a Python object needs the GIL, which the run does not hold.
  const PyRanges& functions = *ranges;
  return {.begin =
              [&functions](const char* name) {
                const py::gil_scoped_acquire gil;
                functions.first(name);
              },
          .end =
              [&functions] {
                const py::gil_scoped_acquire gil;
                functions.second();
              }};
}

const char* phase_name(TraceSpan::Phase phase) {
  switch (phase) {
    case TraceSpan::Phase::kPack:
      return "pack";
    case TraceSpan::Phase::kWire:
      return "wire";
    case TraceSpan::Phase::kUnpack:
      return "unpack";
    case TraceSpan::Phase::kLocal:
      return "local";
    case TraceSpan::Phase::kVerify:
      return "verify";
    case TraceSpan::Phase::kAgree:
      return "agree";
    case TraceSpan::Phase::kSums:
      return "sums";
    case TraceSpan::Phase::kRelease:
      return "release";
    case TraceSpan::Phase::kAcknowledge:
      return "acknowledge";
  }
  return "unknown";
}

std::vector<PySpan> spans_of(const RunResult& result) {
  std::vector<PySpan> spans;
  spans.reserve(result.spans.size());
  for (const TraceSpan& span : result.spans) {
    spans.emplace_back(phase_name(span.phase),
                       span.stage,
                       span.stream,
                       span.begin_seconds,
                       span.end_seconds,
                       span.size_bytes);
  }
  return spans;
}

void agree(Executor& executor, const NamedPlan& plan, double timeout_s) {
  ExecuteOptions options;
  options.timeout = to_ms(timeout_s);
  executor.agree(plan.plan, options);
}

std::tuple<NamedPlan, NamedPlan, std::string> map_sources(Executor& executor,
                                                          const NamedPlan& plan,
                                                          const ShardMap& source,
                                                          const StateTable& source_table,
                                                          double timeout_s) {
  ExecuteOptions options;
  options.timeout = to_ms(timeout_s);
  DividedPlan divided =
      executor.map_sources(plan.plan, source, source_table.memory_for(source), options);
  return {NamedPlan{std::move(divided.in_place), plan.map},
          NamedPlan{std::move(divided.by_messages), plan.map},
          std::move(divided.problem)};
}

// Spells out what Python passes.
// NOLINTBEGIN(readability-function-size)
std::unique_ptr<PreparedRun> prepare(Executor& executor,
                                     const NamedPlan& plan,
                                     const Schedule& schedule,
                                     const ShardMap& source,
                                     const ShardMap& target,
                                     const StateTable& source_table,
                                     const StateTable& target_table,
                                     double timeout_s,
                                     bool verify_sums,
                                     bool allow_one_sided,
                                     StreamingRun* streaming) {
  ExecuteOptions options;
  options.timeout = to_ms(timeout_s);
  return executor.prepare(
      {.plan = plan.plan,
       .schedule = schedule,
       .source = source,
       .target = target,
       .source_memory = source_table.memory_for(source),
       .target_memory = target_table.memory_for(target),
       .verify_sums = verify_sums,
       .allow_one_sided = allow_one_sided,
       .streaming = streaming == nullptr ? std::nullopt : std::optional(streaming->streaming())},
      options);
}
// NOLINTEND(readability-function-size)

RunResult run(Executor& executor,
              PreparedRun& prepared,
              double timeout_s,
              const std::vector<Token>& after,
              const std::optional<PyRanges>& ranges,
              RunControl* control) {
  const ExecuteOptions options{
      .timeout = to_ms(timeout_s), .after = after, .ranges = hook_of(ranges)};
  RunControl own;
  return executor.run(prepared, options, control == nullptr ? own : *control);
}

std::unique_ptr<StreamingRun> make_streaming_run(const Schedule& schedule,
                                                 const std::pair<SharedMap, SharedMap>& maps,
                                                 const std::string& last_reads_of_all,
                                                 std::pair<NamedStorages, NamedStorages> storages,
                                                 const std::vector<int>& kept,
                                                 Watermark& watermark) {
  return std::make_unique<StreamingRun>(
      schedule,
      std::pair<const ShardMap&, const ShardMap&>(*maps.first, *maps.second),
      decode_last_reads(last_reads_of_all, maps.first->num_tensors()),
      std::move(storages),
      kept,
      watermark);
}

void bind_streaming(py::module_& m) {
  py::class_<NamedStorages>(m, "NamedStorages")
      .def(py::init([](std::vector<py::object> storages,
                       std::vector<std::int64_t> size_bytes,
                       std::map<std::string, std::pair<int, std::int64_t>> of_tensor,
                       std::vector<int> gaps) {
             return NamedStorages{{std::move(storages), std::move(size_bytes), std::move(gaps)},
                                  std::move(of_tensor)};
           }),
           py::arg("storages"),
           py::arg("size_bytes"),
           py::arg("of_tensor"),
           py::arg("gaps"));
  const py::class_<Watermark, OwnedWatermark> watermark(m, "Watermark");
  py::class_<StreamingRun>(m, "StreamingRun")
      .def(py::init(&make_streaming_run),
           py::arg("schedule"),
           py::arg("maps"),
           py::arg("last_reads_of_all"),
           py::arg("storages"),
           py::arg("kept"),
           py::arg("watermark"),
           py::keep_alive<1, 7>())
      .def_property_readonly("peak_bytes", &StreamingRun::peak_bytes)
      .def_property_readonly("source_bytes", &StreamingRun::source_bytes);
  m.def(
      "last_reads",
      [](const Schedule& schedule, const ShardMap& source) {
        return py::bytes(encode_last_reads(last_reads(schedule, source.num_tensors())));
      },
      py::arg("schedule"),
      py::arg("source"));
  m.def(
      "largest_last_reads",
      [](const std::vector<std::string>& encoded) {
        return py::bytes(largest_last_reads(encoded));
      },
      py::arg("encoded"));
  m.def(
      "landed_parts",
      [](const std::vector<std::pair<const Schedule*, int>>& schedules_and_stages,
         const ShardMap& map,
         const PlacesByName& places) { return landed_parts(schedules_and_stages, map, places); },
      py::arg("schedules_and_stages"),
      py::arg("map"),
      py::arg("places"),
      NoGil());
  py::class_<RunControl>(m, "RunControl")
      .def(py::init<>())
      .def_property_readonly("landed_stages",
                             [](const RunControl& self) { return self.landed_stages.load(); })
      .def_property_readonly("freed_stages",
                             [](const RunControl& self) { return self.freed_stages.load(); });
}

void bind_run_types(py::module_& m) {
  py::class_<RunResult>(m, "RunResult")
      .def_readonly("seconds", &RunResult::seconds)
      .def_readonly("staging_peak_bytes", &RunResult::staging_peak_bytes)
      .def_property_readonly("spans", &spans_of);
}

void* to_stream(std::uintptr_t handle) {
  return reinterpret_cast<void*>(handle);  // NOLINT(performance-no-int-to-ptr): torch's own form
}

void bind_copiers(py::module_& m) {
  const py::class_<Copier> copier(m, "Copier");
  m.def("CpuCopier", &make_cpu_copier, py::arg("num_threads"), NoGil());
  m.def(
      "CudaCopier",
      [](int device) { return make_cuda_copier({.device = device}); },
      py::arg("device"),
      NoGil());
  m.def("cuda_problem", &cuda_problem, NoGil());
  m.def(
      "cuda_stream_token",
      [](int device, std::uintptr_t stream) {
        return cuda_stream_token(device, to_stream(stream));
      },
      py::arg("device"),
      py::arg("stream"),
      NoGil());
}

void bind_executor(py::module_& m) {
  py::class_<PreparedRun>(m, "PreparedRun")
      .def_property_readonly("table_bytes", &PreparedRun::table_bytes);
  py::class_<Executor>(m, "Executor")
      .def(py::init<Transport&, Copier&, int>(),
           py::arg("transport"),
           py::arg("copier"),
           py::arg("first_tag") = 0,
           py::keep_alive<1, 2>(),
           py::keep_alive<1, 3>())
      .def("agree", &agree, py::arg("plan"), py::arg("timeout_s"), NoGil())
      .def("map_sources",
           &map_sources,
           py::arg("plan"),
           py::arg("source"),
           py::arg("source_table"),
           py::arg("timeout_s"),
           NoGil())
      .def("prepare",
           &prepare,
           py::arg("plan"),
           py::arg("schedule"),
           py::arg("source"),
           py::arg("target"),
           py::arg("source_table"),
           py::arg("target_table"),
           py::arg("timeout_s"),
           py::arg("verify_sums") = true,
           py::arg("allow_one_sided") = true,
           py::arg("streaming") = py::none(),
           py::keep_alive<0, 1>(),
           py::keep_alive<0, 2>(),
           py::keep_alive<0, 3>(),
           py::keep_alive<0, 4>(),
           py::keep_alive<0, 5>(),
           py::keep_alive<0, 11>(),
           NoGil())
      .def(
          "make_watermark",
          [](Executor& self) { return OwnedWatermark(self.make_watermark().release()); },
          py::keep_alive<0, 1>(),
          NoGil())
      .def("run",
           &run,
           py::arg("prepared"),
           py::arg("timeout_s"),
           py::arg("after") = std::vector<Token>{},
           py::arg("ranges") = py::none(),
           py::arg("control") = py::none(),
           NoGil());
}

}  // namespace

void bind_execution(py::module_& m) {
  bind_run_types(m);
  bind_copiers(m);
  bind_streaming(m);
  bind_executor(m);
}

}  // namespace dynatrain::binding
