#include "torch/bind.hpp"
#include <string>
#include <tuple>
#include <unordered_set>
#include <vector>

namespace dynatrain::binding {
namespace {

using PyMove = std::tuple<std::string, PyDims, PyDims, int, int>;
using PyTraffic = std::tuple<int, std::size_t, std::int64_t, std::uint64_t>;

NamedPlan plan_for(const SharedMap& source,
                   const ShardMap& target,
                   int rank,
                   std::vector<int> node_of_rank) {
  DecisionRecord record;
  record.node_of_rank = std::move(node_of_rank);
  return {make_plan(*source, target, rank, record), source};
}

std::vector<std::string> check(const ShardMap& source,
                               const ShardMap& target,
                               const std::vector<const NamedPlan*>& named) {
  std::vector<Plan> plans;
  plans.reserve(named.size());
  for (const NamedPlan* const one : named) {
    plans.push_back(one->plan);
  }
  return check_plans(source, target, plans);
}

std::vector<std::string> adoptable_names(const NamedPlan& self) {
  std::vector<std::string> names;
  names.reserve(self.plan.adoptable.size());
  for (const TensorId id : self.plan.adoptable) {
    names.push_back(self.name_of(id));
  }
  return names;
}

std::vector<PyTraffic> summaries(const std::vector<PairList>& pairs) {
  std::vector<PyTraffic> out;
  out.reserve(pairs.size());
  for (const PairList& pair : pairs) {
    out.emplace_back(pair.peer, pair.moves.size(), pair.size_bytes, pair.hash);
  }
  return out;
}

void append_moves(const NamedPlan& self, const std::vector<Move>& moves, std::vector<PyMove>& out) {
  for (const Move& move : moves) {
    out.emplace_back(self.name_of(move.tensor),
                     to_list(move.box.begin),
                     to_list(move.box.end),
                     move.src_rank,
                     move.dst_rank);
  }
}

std::vector<PyMove> all_moves(const NamedPlan& self) {
  std::vector<PyMove> out;
  for (const PairList& pair : self.plan.sends) {
    append_moves(self, pair.moves, out);
  }
  for (const PairList& pair : self.plan.receives) {
    append_moves(self, pair.moves, out);
  }
  append_moves(self, self.plan.locals, out);
  return out;
}

std::size_t num_moves(const NamedPlan& self) {
  std::size_t total = self.plan.locals.size();
  for (const PairList& pair : self.plan.sends) {
    total += pair.moves.size();
  }
  for (const PairList& pair : self.plan.receives) {
    total += pair.moves.size();
  }
  return total;
}

/// The plan's part of the tensors that are called so.
NamedPlan restrict_to(const NamedPlan& self, const std::vector<std::string>& names) {
  const std::unordered_set<std::string> wanted(names.begin(), names.end());
  std::vector<TensorId> tensors;
  for (std::size_t i = 0; i < self.map->num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    if (wanted.contains(self.name_of(id))) {
      tensors.push_back(id);
    }
  }
  return {part_of(self.plan, *self.map, tensors), self.map};
}

double time_bound(const NamedPlan& self, int num_stages, const Topology& topology) {
  return time_bound_seconds(self.plan.traffic, num_stages, topology);
}

/// A read-only property that is a field of the plan's traffic.
auto traffic(std::int64_t Traffic::* field) {
  return [field](const NamedPlan& self) { return self.plan.traffic.*field; };
}

void bind_plan_class(py::module_& m) {
  py::class_<NamedPlan>(m, "Plan")
      .def_property_readonly("rank", [](const NamedPlan& self) { return self.plan.rank; })
      .def_property_readonly("sent_bytes", traffic(&Traffic::sent_bytes))
      .def_property_readonly("received_bytes", traffic(&Traffic::received_bytes))
      .def_property_readonly("kept_bytes", traffic(&Traffic::kept_bytes))
      .def_property_readonly("lower_bound_bytes", traffic(&Traffic::lower_bound_bytes))
      .def_property_readonly("num_moves", &num_moves)
      .def("adoptable", &adoptable_names)
      .def("part_of", &restrict_to, py::arg("names"), NoGil())
      .def("sends", [](const NamedPlan& self) { return summaries(self.plan.sends); })
      .def("receives", [](const NamedPlan& self) { return summaries(self.plan.receives); })
      .def("moves", &all_moves);
}

}  // namespace

void bind_plan(py::module_& m) {
  bind_plan_class(m);
  m.def("check_same_tensors", &check_same_tensors, py::arg("source"), py::arg("target"), NoGil());
  m.def("make_plan",
        &plan_for,
        py::arg("source"),
        py::arg("target"),
        py::arg("rank"),
        py::arg("node_of_rank") = std::vector<int>{},
        NoGil());
  m.def("check_plans", &check, py::arg("source"), py::arg("target"), py::arg("plans"), NoGil());
  const Topology usual;
  m.def(
      "time_bound_seconds",
      [](const NamedPlan& plan, int num_stages, double link, double latency, double memory) {
        return time_bound(plan, num_stages, {link, latency, memory});
      },
      py::arg("plan"),
      py::arg("num_stages") = 1,
      py::arg("link_bytes_per_second") = usual.link_bytes_per_second,
      py::arg("stage_latency_seconds") = usual.stage_latency_seconds,
      py::arg("memory_bytes_per_second") = usual.memory_bytes_per_second);
}

}  // namespace dynatrain::binding
