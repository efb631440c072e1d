#pragma once

#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain::binding {

namespace py = pybind11;

/// Released around everything that is not a plain property.
using NoGil = py::call_guard<py::gil_scoped_release>;

/// Maps are shared: a plan needs the names of the map that it was made from.
using SharedMap = std::shared_ptr<ShardMap>;

/// A plan together with the map whose tensor ids it speaks of.
struct NamedPlan {
  Plan plan;
  std::shared_ptr<const ShardMap> map;

  [[nodiscard]] const std::string& name_of(TensorId id) const { return map->tensor(id).name; }
};

/// A box as Python sees it: (begin, end), each a list with one entry per dimension.
using PyDims = std::vector<std::int64_t>;
using PyBox = std::pair<PyDims, PyDims>;

[[nodiscard]] inline PyDims to_list(const Dims& dims) {
  return {dims.values().begin(), dims.values().end()};
}
[[nodiscard]] inline Dims to_dims(const PyDims& values) {
  return Dims(std::span<const std::int64_t>(values));
}
[[nodiscard]] inline PyBox to_pair(const Box& box) {
  return {to_list(box.begin), to_list(box.end)};
}
/// A placement as Python hands it over: dim -1 is Replicate, split_factor > 1 is _StridedShard.
[[nodiscard]] inline Placement to_placement(int dim, std::int64_t split_factor) {
  if (dim < 0) {
    return {};
  }
  return {Placement::Kind::kShard, dim, split_factor};
}

/// Time-outs as Python gives them; what is no time or more than a year is a year.
[[nodiscard]] inline std::chrono::milliseconds to_ms(double seconds) {
  constexpr double year = 365.0 * 24 * 3600;
  const double limited = seconds < year ? std::max(seconds, 0.0) : year;
  return std::chrono::milliseconds(static_cast<std::int64_t>(limited * 1e3));
}

void bind_base(py::module_& m);
void bind_layout(py::module_& m);
void bind_state_table(py::module_& m);
void bind_shard_map(py::module_& m);
void bind_packing(py::module_& m);
void bind_plan(py::module_& m);
void bind_schedule(py::module_& m);
void bind_transport(py::module_& m);
void bind_execution(py::module_& m);
void bind_fingerprint(py::module_& m);
void bind_membership(py::module_& m);
void bind_words(py::module_& m);

}  // namespace dynatrain::binding
