#include "dynatrain/plan/fan_out.hpp"
#include "dynatrain/plan/relabel.hpp"
#include "dynatrain/plan/world_traffic.hpp"

#include "torch/bind.hpp"
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

using PyMove = std::tuple<std::string, PyDims, PyDims, int, int>;
using PyTraffic = std::tuple<int, std::size_t, std::int64_t, std::uint64_t>;

DecisionRecord record_of(std::vector<int> node_of_rank) {
  DecisionRecord record;
  record.node_of_rank = std::move(node_of_rank);
  return record;
}

NamedPlan plan_for(const SharedMap& source,
                   const ShardMap& target,
                   int rank,
                   std::vector<int> node_of_rank) {
  return {make_plan(*source, target, rank, record_of(std::move(node_of_rank))), source};
}

/// A FanOut whose maps Python may keep.
struct SharedFanOut {
  FanOut fan_out;

  [[nodiscard]] static std::optional<SharedFanOut> of(const ShardMap& source,
                                                      const ShardMap& target,
                                                      std::vector<int> node_of_rank,
                                                      bool by_node,
                                                      std::int64_t least_slice_bytes) {
    std::optional<FanOut> found = dynatrain::fan_out(source,
                                                     target,
                                                     record_of(std::move(node_of_rank)),
                                                     by_node ? SharedBy::kNode : SharedBy::kAll,
                                                     least_slice_bytes);
    return found.has_value() ? std::optional(SharedFanOut{std::move(*found)}) : std::nullopt;
  }
  [[nodiscard]] NamedPlan hand_on_plan_of(int rank, std::vector<int> node_of_rank) const {
    return {hand_on_plan(fan_out, rank, record_of(std::move(node_of_rank))),
            std::make_shared<ShardMap>(fan_out.given)};
  }
};

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

/// Bytes sent and received within a node, sent and received between nodes.
std::array<std::int64_t, 4> by_link(const NamedPlan& self, std::vector<int> node_of_rank) {
  const LinkTraffic links = link_traffic(self.plan, record_of(std::move(node_of_rank)));
  return {links.near_sent_bytes,
          links.near_received_bytes,
          links.far_sent_bytes,
          links.far_received_bytes};
}

double time_bound(const NamedPlan& self, std::vector<int> node_of_rank, const Topology& topology) {
  const LinkTraffic links = link_traffic(self.plan, record_of(std::move(node_of_rank)));
  return time_bound_seconds(self.plan.traffic, links, topology);
}

std::vector<std::tuple<PyDims, PyDims, std::vector<int>, std::vector<int>>> cells(
    const ShardMap& source, const ShardMap& target, const std::string& name) {
  std::vector<std::tuple<PyDims, PyDims, std::vector<int>, std::vector<int>>> out;
  for (WorldCell& cell : cells_of(source, target, source.find(name))) {
    out.emplace_back(to_list(cell.box.begin),
                     to_list(cell.box.end),
                     std::move(cell.owners),
                     std::move(cell.needers));
  }
  return out;
}

std::pair<std::int64_t, std::vector<int>> least_egress_of(const WorldTraffic& traffic) {
  EgressBound bound = least_egress(traffic.demands);
  return {bound.size_bytes, std::move(bound.ranks)};
}

std::pair<std::int64_t, std::vector<int>> least_egress_of_demands(
    const std::vector<std::pair<std::vector<int>, std::int64_t>>& told) {
  std::vector<Demand> demands;
  demands.reserve(told.size());
  for (const auto& [owners, size_bytes] : told) {
    demands.push_back({.owners = owners, .size_bytes = size_bytes});
  }
  EgressBound bound = least_egress(demands);
  return {bound.size_bytes, std::move(bound.ranks)};
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
      .def_property_readonly("adoptable_bytes", traffic(&Traffic::adoptable_bytes))
      .def_property_readonly("num_moves", &num_moves)
      .def("adoptable", &adoptable_names)
      .def("part_of", &restrict_to, py::arg("names"), NoGil())
      .def("sends", [](const NamedPlan& self) { return summaries(self.plan.sends); })
      .def("receives", [](const NamedPlan& self) { return summaries(self.plan.receives); })
      .def("by_link", &by_link, py::arg("node_of_rank") = std::vector<int>{})
      .def("moves", &all_moves);
}

void bind_fan_out(py::module_& m) {
  const auto map = [](const ShardMap FanOut::* field) {
    return [field](const SharedFanOut& self) {
      return std::make_shared<ShardMap>(self.fan_out.*field);
    };
  };
  py::class_<SharedFanOut>(m, "FanOut")
      .def_property_readonly("scattered", map(&FanOut::scattered))
      .def_property_readonly("given", map(&FanOut::given))
      .def_property_readonly("wanted", map(&FanOut::wanted))
      .def("hand_on_plan",
           &SharedFanOut::hand_on_plan_of,
           py::arg("rank"),
           py::arg("node_of_rank"),
           NoGil());
  m.def("fan_out",
        &SharedFanOut::of,
        py::arg("source"),
        py::arg("target"),
        py::arg("node_of_rank"),
        py::arg("by_node"),
        py::arg("least_slice_bytes"),
        NoGil());
  m.def(
      "way_of_least_load",
      [](const std::vector<LoadsOfWays>& ranks) { return way_of_least_load(ranks); },
      py::arg("ranks"),
      NoGil());
}

void bind_relabel(py::module_& m) {
  py::class_<Relabelling>(m, "Relabelling")
      .def_readonly("ranks", &Relabelling::ranks)
      .def_readonly("moved_bytes", &Relabelling::moved_bytes)
      .def_readonly("moved_far_bytes", &Relabelling::moved_far_bytes)
      .def_readonly("natural_moved_bytes", &Relabelling::natural_moved_bytes)
      .def_readonly("natural_moved_far_bytes", &Relabelling::natural_moved_far_bytes);
  m.def(
      "relabel",
      [](const ShardMap& source,
         const ShardMap& target,
         std::vector<int> node_of_rank,
         const std::vector<int>& ranks) {
        return relabel(source, target, record_of(std::move(node_of_rank)), ranks);
      },
      py::arg("source"),
      py::arg("target"),
      py::arg("node_of_rank"),
      py::arg("ranks"),
      NoGil());
}

void bind_topology(py::module_& m) {
  const Topology usual;
  py::class_<Topology>(m, "Topology")
      .def(py::init([](double link,
                       double node_link,
                       double latency,
                       double memory,
                       double host,
                       double host_memory,
                       double pack_cost) {
             return Topology{link, node_link, latency, memory, host, host_memory, pack_cost};
           }),
           py::arg("link_bytes_per_second") = usual.link_bytes_per_second,
           py::arg("node_link_bytes_per_second") = usual.node_link_bytes_per_second,
           py::arg("stage_latency_seconds") = usual.stage_latency_seconds,
           py::arg("memory_bytes_per_second") = usual.memory_bytes_per_second,
           py::arg("host_bytes_per_second") = usual.host_bytes_per_second,
           py::arg("host_memory_bytes_per_second") = usual.host_memory_bytes_per_second,
           py::arg("pack_cost") = usual.pack_cost);
}

void bind_world_traffic(py::module_& m) {
  py::class_<WorldTraffic>(m, "WorldTraffic")
      .def_readonly("first_owner", &WorldTraffic::first_owner)
      .def_readonly("modulo", &WorldTraffic::modulo)
      .def_readonly("least_loaded", &WorldTraffic::least_loaded)
      .def("least_egress", &least_egress_of, NoGil());
  m.def("world_traffic", &world_traffic, py::arg("source"), py::arg("target"), NoGil());
  m.def("least_egress", &least_egress_of_demands, py::arg("demands"), NoGil());
  m.def("cells_of", &cells, py::arg("source"), py::arg("target"), py::arg("name"), NoGil());
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
  bind_fan_out(m);
  bind_relabel(m);
  bind_topology(m);
  m.def("time_bound_seconds",
        &time_bound,
        py::arg("plan"),
        py::arg("node_of_rank"),
        py::arg("topology"));
  bind_world_traffic(m);
}

}  // namespace dynatrain::binding
