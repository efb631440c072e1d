#include "dynatrain/base/error.hpp"

#include "torch/bind.hpp"
#include "torch/state_table.hpp"
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace dynatrain::binding {
namespace {

using PyPlacements = std::vector<std::pair<int, std::int64_t>>;
using PyFragment = std::tuple<PyDims, PyDims, std::int64_t, PyDims>;

/// The logical tensor as all four add functions take it.
LogicalTensor tensor_of(const std::string& name,
                        const PyDims& shape,
                        const std::string& dtype_name,
                        std::int64_t itemsize) {
  if (itemsize < 1) {
    throw LayoutError("layout: '" + name + "' has elements of " + std::to_string(itemsize) +
                      " bytes\n  expected 1 or more\n  it was not added");
  }
  return {name, to_dims(shape), DType{dtype_name, itemsize}};
}

LiveMemory memory_of(std::uintptr_t address,
                     const Shape& shape,
                     const PyDims& strides,
                     std::int64_t itemsize) {
  LiveMemory memory;
  // Python hands addresses over as integers (Tensor.data_ptr()).
  memory.base = reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
  memory.local_shape = shape;
  memory.local_strides = to_dims(strides);
  memory.size_bytes = extent_bytes(shape, memory.local_strides, itemsize);
  return memory;
}

/// Strides in which dimensions of one element do not count.
bool is_dense(const Shape& shape, const Strides& strides) {
  return num_elements(shape) <= 1 || is_contiguous(shape, strides);
}

void add_sharded(StateTable& table,
                 LogicalTensor tensor,
                 int mesh_index,
                 const PyPlacements& placements,
                 const LiveMemory& memory) {
  Descriptor descriptor{std::move(tensor), table.mesh(mesh_index), {}, {}};
  for (const auto& [dim, split_factor] : placements) {
    descriptor.placements.push_back(to_placement(dim, split_factor));
  }
  table.add(std::move(descriptor), memory);
}

void add_whole(StateTable& table, LogicalTensor tensor, const LiveMemory& memory) {
  Descriptor descriptor{std::move(tensor), {}, {}, {}};
  const Shape& shape = descriptor.tensor.shape;
  if (!is_dense(shape, memory.local_strides)) {
    descriptor.fragments.push_back({Box::whole(shape), View{0, memory.local_strides}});
  }
  table.add(std::move(descriptor), memory);
}

void add_fragments(StateTable& table,
                   LogicalTensor tensor,
                   const std::vector<PyFragment>& fragments,
                   std::uintptr_t address,
                   std::int64_t num_bytes) {
  const std::int64_t itemsize = tensor.dtype.size_bytes;
  Descriptor descriptor{std::move(tensor), {}, {}, {}};
  for (const auto& [begin, end, offset_elems, strides] : fragments) {
    descriptor.fragments.push_back(
        {Box{to_dims(begin), to_dims(end)}, View{offset_elems, to_dims(strides)}});
  }
  // The buffer behind explicit fragments is a run of elements.
  table.add(std::move(descriptor), memory_of(address, Shape{num_bytes / itemsize}, {1}, itemsize));
}

std::vector<std::string> names_of(const StateTable& table) {
  std::vector<std::string> names;
  for (const Descriptor& descriptor : table.descriptors()) {
    names.push_back(descriptor.tensor.name);
  }
  return names;
}

std::map<std::string, std::uintptr_t> addresses_of(const StateTable& table) {
  std::map<std::string, std::uintptr_t> addresses;
  for (std::size_t i = 0; i < table.size(); ++i) {
    addresses[table.descriptors()[i].tensor.name] =
        reinterpret_cast<std::uintptr_t>(table.memory(i).base);
  }
  return addresses;
}

}  // namespace

// The lambdas spell out what Python passes; they build the values that the functions above take.
// NOLINTBEGIN(readability-function-size)
void bind_state_table(py::module_& m) {
  py::class_<StateTable> cls(m, "StateTable");
  cls.def(py::init<>())
      .def(
          "add_mesh",
          [](StateTable& self, std::vector<int> shape, std::vector<int> ranks) {
            return self.add_mesh({std::move(shape), std::move(ranks)});
          },
          py::arg("shape"),
          py::arg("ranks"))
      .def(
          "add_sharded",
          [](StateTable& self,
             const std::string& name,
             const PyDims& shape,
             const std::string& dtype_name,
             std::int64_t itemsize,
             int mesh_index,
             const PyPlacements& placements,
             std::uintptr_t data_ptr,
             const PyDims& local_shape,
             const PyDims& local_strides) {
            add_sharded(self,
                        tensor_of(name, shape, dtype_name, itemsize),
                        mesh_index,
                        placements,
                        memory_of(data_ptr, to_dims(local_shape), local_strides, itemsize));
          },
          py::arg("name"),
          py::arg("shape"),
          py::arg("dtype_name"),
          py::arg("itemsize"),
          py::arg("mesh_index"),
          py::arg("placements"),
          py::arg("data_ptr"),
          py::arg("local_shape"),
          py::arg("local_strides"))
      .def(
          "add_whole",
          [](StateTable& self,
             const std::string& name,
             const PyDims& shape,
             const std::string& dtype_name,
             std::int64_t itemsize,
             std::uintptr_t data_ptr,
             const PyDims& local_strides) {
            add_whole(self,
                      tensor_of(name, shape, dtype_name, itemsize),
                      memory_of(data_ptr, to_dims(shape), local_strides, itemsize));
          },
          py::arg("name"),
          py::arg("shape"),
          py::arg("dtype_name"),
          py::arg("itemsize"),
          py::arg("data_ptr"),
          py::arg("local_strides"))
      .def(
          "add_fragments",
          [](StateTable& self,
             const std::string& name,
             const PyDims& shape,
             const std::string& dtype_name,
             std::int64_t itemsize,
             const std::vector<PyFragment>& fragments,
             std::uintptr_t data_ptr,
             std::int64_t nbytes) {
            add_fragments(
                self, tensor_of(name, shape, dtype_name, itemsize), fragments, data_ptr, nbytes);
          },
          py::arg("name"),
          py::arg("shape"),
          py::arg("dtype_name"),
          py::arg("itemsize"),
          py::arg("fragments"),
          py::arg("data_ptr"),
          py::arg("nbytes"));
  cls.def("encode", [](const StateTable& self) { return py::bytes(self.encode()); })
      .def(
          "encode_as",
          [](const StateTable& self, const std::vector<int>& ranks) {
            return py::bytes(self.encode_as(ranks));
          },
          py::arg("ranks"))
      .def("hash", &StateTable::hash, NoGil())
      .def("signature", &StateTable::signature, NoGil())
      .def("with_names", &StateTable::with_names, py::arg("names"))
      .def("only", &StateTable::only, py::arg("names"))
      .def("names", &names_of)
      .def("data_ptrs", &addresses_of)
      .def("__len__", &StateTable::size);
}
// NOLINTEND(readability-function-size)

}  // namespace dynatrain::binding
