#include "dynatrain/base/error.hpp"

#include "torch/bind.hpp"
#include "torch/state_table.hpp"
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

/// Errors: LayoutError for a name that the map does not have.
TensorId id_of(const ShardMap& map, const std::string& name) {
  const TensorId id = map.find(name);
  if (id.value < 0) {
    throw LayoutError("layout: the map has no tensor '" + name + "'\n  it has " +
                      std::to_string(map.num_tensors()) + " tensors\n  ask names() for them");
  }
  return id;
}

SharedMap merge(const std::vector<std::pair<py::bytes, std::vector<int>>>& published,
                int num_present) {
  std::vector<Publication> publications;
  publications.reserve(published.size());
  for (const auto& [blob, ranks] : published) {
    publications.push_back({std::string(blob), ranks});
  }
  const py::gil_scoped_release no_gil;
  return std::make_shared<ShardMap>(merge_publications(publications, num_present));
}

std::vector<std::string> names_of(const ShardMap& map) {
  std::vector<std::string> names;
  names.reserve(map.num_tensors());
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    names.push_back(map.tensor(TensorId(static_cast<std::int64_t>(i))).name);
  }
  return names;
}

std::tuple<PyDims, std::string, std::int64_t> info_of(const ShardMap& map,
                                                      const std::string& name) {
  const LogicalTensor& tensor = map.tensor(id_of(map, name));
  return {to_list(tensor.shape), tensor.dtype.name, tensor.dtype.size_bytes};
}

std::vector<std::string> axes_by_name(const ShardMap& map,
                                      const Layout& layout,
                                      const std::vector<int>& ranks) {
  std::vector<std::string> names;
  for (const Axis axis : axes_without_cut(map, layout, ranks)) {
    names.emplace_back(axis_name(axis));
  }
  return names;
}

std::vector<PyBox> fragments_of(const ShardMap& map, const std::string& name, int rank) {
  std::vector<PyBox> boxes;
  for (const Fragment& fragment : map.fragments(id_of(map, name), rank)) {
    boxes.push_back(to_pair(fragment.box));
  }
  return boxes;
}

std::vector<std::tuple<PyDims, PyDims, std::vector<int>>> owners_of(const ShardMap& map,
                                                                    const std::string& name) {
  std::vector<std::tuple<PyDims, PyDims, std::vector<int>>> owners;
  for (const OwnedBox& owned : map.owned_boxes(id_of(map, name))) {
    owners.emplace_back(to_list(owned.box.begin), to_list(owned.box.end), owned.ranks);
  }
  return owners;
}

std::vector<std::pair<std::string, std::vector<PyBox>>> holes_by_name(const ShardMap& map) {
  std::vector<std::pair<std::string, std::vector<PyBox>>> holes;
  for (const Hole& hole : holes_of(map)) {
    std::vector<PyBox> boxes;
    boxes.reserve(hole.boxes.size());
    for (const Box& box : hole.boxes) {
      boxes.push_back(to_pair(box));
    }
    holes.emplace_back(map.tensor(hole.id).name, std::move(boxes));
  }
  return holes;
}

void prove_live_table(const ShardMap& map, int rank, const StateTable& table) {
  prove_live(map, rank, table.live_in(map));
}

}  // namespace

void bind_shard_map(py::module_& m) {
  py::class_<ShardMap, SharedMap>(m, "ShardMap")
      .def_static("merge",
                  &merge,
                  py::arg("publications"),
                  py::arg("num_present") = std::numeric_limits<int>::max())
      .def_property_readonly("num_tensors", &ShardMap::num_tensors)
      .def("bytes_of_rank", &ShardMap::bytes_of_rank, py::arg("rank"), NoGil())
      .def_property_readonly("num_ranks", &ShardMap::num_ranks)
      .def("hash", &ShardMap::hash, NoGil())
      .def("names", &names_of)
      .def("info", &info_of, py::arg("name"))
      .def("fragments", &fragments_of, py::arg("name"), py::arg("rank"))
      .def("owners", &owners_of, py::arg("name"))
      .def("prove_live", &prove_live_table, py::arg("rank"), py::arg("table"), NoGil())
      .def("holes", &holes_by_name)
      .def("axes_without_cut", &axes_by_name, py::arg("layout"), py::arg("ranks"))
      .def("prove_coverage", &prove_coverage, NoGil());
}

}  // namespace dynatrain::binding
