#include "dynatrain/base/error.hpp"
#include "dynatrain/layout/layout.hpp"
#include "dynatrain/layout/meshes.hpp"
#include "dynatrain/layout/placement.hpp"

#include "torch/bind.hpp"
#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

/// Where the size named `axis` lies in a spec, or null for a word that is no axis.
int* size_field(LayoutSpec& spec, std::string_view axis) {
  const std::array<std::pair<std::string_view, int*>, 8> sizes{
      {{"dp_shard", &spec.dp_shard},
       {"dp_replicate", &spec.dp_replicate},
       {"cp", &spec.cp},
       {"tp", &spec.tp},
       {"pp", &spec.pp},
       {"ep", &spec.ep},
       {"etp", &spec.etp},
       {"vpp", &spec.vpp}}};
  const auto* const found =
      std::ranges::find_if(sizes, [&](const auto& entry) { return axis == entry.first; });
  return found == sizes.end() ? nullptr : found->second;
}

std::array<Axis, kNumMeshAxes> order_of(const std::vector<std::string>& names) {
  std::array<Axis, kNumMeshAxes> order{};
  if (names.size() != order.size()) {
    throw LayoutError("layout: order names " + std::to_string(names.size()) + " axes\n" +
                      "  expected 5: pp, dp_replicate, dp_shard, cp and tp, each once\n" +
                      "  nothing was changed\n  give all five from the slowest to the fastest");
  }
  std::ranges::transform(
      names, order.begin(), [](const std::string& name) { return axis_from_name(name); });
  return order;
}

template <class Value>
Value cast_word(const std::string& name, const py::handle& value) {
  try {
    return value.cast<Value>();
  } catch (const py::cast_error&) {
    throw py::type_error("Layout(): " + name + " cannot be " + std::string(py::repr(value)) +
                         "; sizes are integers, stages a list of integers, order a list of names");
  }
}

/// The keyword arguments of Layout(): a name per axis, as the text form has, and stages and order.
LayoutSpec spec_of(const py::kwargs& given) {
  LayoutSpec spec;
  for (const auto& [key, value] : given) {
    const auto name = key.cast<std::string>();
    if (int* const size = size_field(spec, name); size != nullptr) {
      *size = cast_word<int>(name, value);
    } else if (name == "stages") {
      spec.stages = cast_word<std::vector<int>>(name, value);
    } else if (name == "order") {
      spec.order = order_of(cast_word<std::vector<std::string>>(name, value));
    } else {
      throw py::type_error("Layout() got an unexpected keyword argument '" + name + "'");
    }
  }
  return spec;
}

std::vector<std::string> order_names(const Layout& layout) {
  std::vector<std::string> names;
  for (const Axis axis : layout.spec().order) {
    names.emplace_back(axis_name(axis));
  }
  return names;
}

std::vector<int> group_of(const Layout& layout, int rank, const std::vector<std::string>& names) {
  std::vector<Axis> axes(names.size());
  std::ranges::transform(
      names, axes.begin(), [](const std::string& name) { return axis_from_name(name); });
  return layout.group(rank, axes);
}

std::vector<std::pair<int, int>> layer_ranges(const Layout& layout, int pp_rank, int num_layers) {
  std::vector<std::pair<int, int>> ranges;
  for (const Layout::LayerRange& range : layout.layers(pp_rank, num_layers)) {
    ranges.emplace_back(range.begin, range.end);
  }
  return ranges;
}

void bind_sizes(py::class_<Layout>& cls) {
  cls.def(
      "size",
      [](const Layout& self, const std::string& axis) { return self.size(axis_from_name(axis)); },
      py::arg("axis"));
  for (const Axis axis : {Axis::kPp,
                          Axis::kDpReplicate,
                          Axis::kDpShard,
                          Axis::kCp,
                          Axis::kTp,
                          Axis::kEp,
                          Axis::kEtp,
                          Axis::kVpp}) {
    cls.def_property_readonly(std::string(axis_name(axis)).c_str(),
                              [axis](const Layout& self) { return self.size(axis); });
  }
  cls.def_property_readonly("stages", [](const Layout& self) { return self.spec().stages; })
      .def_property_readonly("order", &order_names)
      .def_property_readonly("world_size", &Layout::world_size)
      .def_property_readonly("efsdp_size", &Layout::efsdp_size);
}

/// A function that answers with a mesh, as sizes and ranks.
auto mesh_by(Mesh (*make)(const Layout&, int)) {
  return [make](const Layout& self, int pp_rank) {
    Mesh mesh = make(self, pp_rank);
    return std::pair(std::move(mesh.shape), std::move(mesh.ranks));
  };
}

void bind_places(py::class_<Layout>& cls) {
  cls.def(
         "coordinate",
         [](const Layout& self, int rank, const std::string& axis) {
           return self.coordinate(rank, axis_from_name(axis));
         },
         py::arg("rank"),
         py::arg("axis"))
      .def("group", &group_of, py::arg("rank"), py::arg("axes"))
      .def(
          "expert_coordinate",
          [](const Layout& self, int rank) {
            const Layout::ExpertCoordinate at = self.expert_coordinate(rank);
            return std::tuple(at.efsdp, at.ep, at.etp);
          },
          py::arg("rank"))
      .def("stage_mesh", mesh_by(&stage_mesh), py::arg("pp_rank"))
      .def("expert_mesh", mesh_by(&expert_mesh), py::arg("pp_rank"))
      .def("layers", &layer_ranges, py::arg("pp_rank"), py::arg("num_layers"));
}

/// (dim, split_factor) as Python hands placements over; dim -1 is Replicate.
std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> intervals_of(
    const PyDims& shape,
    const std::vector<int>& mesh_shape,
    const std::vector<int>& coordinate,
    const std::vector<std::pair<int, std::int64_t>>& placements) {
  std::vector<Placement> parsed;
  parsed.reserve(placements.size());
  for (const auto& [dim, split_factor] : placements) {
    parsed.push_back(to_placement(dim, split_factor));
  }
  std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> out;
  for (const DimIntervals& dim : local_intervals(to_dims(shape), mesh_shape, coordinate, parsed)) {
    auto& row = out.emplace_back();
    for (const Interval& range : dim) {
      row.emplace_back(range.begin, range.end);
    }
  }
  return out;
}

}  // namespace

void bind_layout(py::module_& m) {
  py::class_<Layout> cls(m, "Layout");
  cls.def(py::init([](const py::kwargs& given) { return Layout(spec_of(given)); }))
      .def_static("parse", &Layout::parse, py::arg("text"))
      .def("__str__", &Layout::to_string)
      .def("__repr__", [](const Layout& self) { return "Layout('" + self.to_string() + "')"; })
      .def("__eq__",
           [](const Layout& self, const py::object& other) {
             return py::isinstance<Layout>(other) && self == other.cast<const Layout&>();
           })
      .def("__hash__", [](const Layout& self) { return std::hash<std::uint64_t>{}(self.hash()); })
      .def(py::pickle([](const Layout& self) { return self.to_string(); },
                      [](const std::string& text) { return Layout::parse(text); }));
  bind_sizes(cls);
  bind_places(cls);
  m.def("local_intervals",
        &intervals_of,
        py::arg("shape"),
        py::arg("mesh_shape"),
        py::arg("coordinate"),
        py::arg("placements"));
}

}  // namespace dynatrain::binding
