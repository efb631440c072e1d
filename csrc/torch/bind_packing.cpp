#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/host_memory.hpp"
#include "dynatrain/transport/shared_memory.hpp"

#include "torch/bind.hpp"
#include "torch/packed_state.hpp"
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

StateTable table_of(const std::vector<std::pair<py::bytes, std::int64_t>>& shares,
                    const HostRun& run,
                    std::uintptr_t on_device,
                    const std::set<std::string>& on_host) {
  std::vector<std::string> blobs;
  std::vector<PackedShare> told;
  blobs.reserve(shares.size());  // what is told of them points into it
  for (const auto& [blob, offset_bytes] : shares) {
    blobs.emplace_back(blob);
    told.push_back({blobs.back(), offset_bytes});
  }
  const py::gil_scoped_release no_gil;
  // Python hands addresses over as integers (Tensor.data_ptr()).
  auto* const device =
      reinterpret_cast<std::byte*>(on_device);  // NOLINT(performance-no-int-to-ptr)
  return packed_table(
      told, {.host = run.data(), .device = device, .size_bytes = run.size_bytes()}, on_host);
}

using PyPiece = std::tuple<PyDims, PyDims, std::int64_t>;
using PyPacked = std::tuple<std::string, PyDims, std::string, std::int64_t, std::vector<PyPiece>>;

std::vector<PyPacked> boxes_of(const std::string& blob) {
  const PackedShare share{blob, 0};
  std::vector<PyPacked> packed;
  for (const Descriptor& held : join_packed({&share, 1})) {
    const LogicalTensor& tensor = held.tensor;
    std::vector<PyPiece> pieces;
    pieces.reserve(held.fragments.size());
    for (const Fragment& fragment : held.fragments) {
      pieces.emplace_back(to_list(fragment.box.begin),
                          to_list(fragment.box.end),
                          checked_mul(fragment.view.offset_elems, tensor.dtype.size_bytes));
    }
    packed.emplace_back(tensor.name,
                        to_list(tensor.shape),
                        tensor.dtype.name,
                        tensor.dtype.size_bytes,
                        std::move(pieces));
  }
  return packed;
}

}  // namespace

void bind_packing(py::module_& m) {
  py::class_<HostRun>(m, "HostRun", py::buffer_protocol())
      .def(py::init<std::int64_t>(), py::arg("size_bytes"), NoGil())
      .def_property_readonly("size_bytes", &HostRun::size_bytes)
      .def("sum", &HostRun::sum, py::arg("begin"), py::arg("end"), NoGil())
      .def_buffer([](HostRun& self) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(self.data()), self.size_bytes());
      });
  m.def(
      "available_host_bytes",
      [] {
        SharedBlock::wait_for_leaving();  // theirs is left, too
        return available_host_bytes();
      },
      NoGil());
  m.def("available_address_bytes", &available_address_bytes, NoGil());
  py::class_<PackedState>(m, "PackedState")
      .def(py::init<const StateTable&, int>(), py::arg("table"), py::arg("rank"), NoGil())
      .def_property_readonly("size_bytes", &PackedState::size_bytes)
      .def("blob", [](const PackedState& self) { return py::bytes(self.blob()); })
      .def(
          "copy",
          [](const PackedState& self,
             Copier& copier,
             HostRun& run,
             const std::vector<Token>& after,
             double timeout_s,
             std::int64_t begin_bytes) {
            self.copy(copier, run, after, deadline_in(to_ms(timeout_s)), begin_bytes);
          },
          py::arg("copier"),
          py::arg("run"),
          py::arg("after"),
          py::arg("timeout_s"),
          py::arg("begin_bytes") = 0,
          NoGil());
  m.def("packed_boxes", &boxes_of, py::arg("blob"));
  m.def("packed_table",
        &table_of,
        py::arg("shares"),
        py::arg("run"),
        py::arg("on_device") = 0,
        py::arg("on_host") = std::set<std::string>{});
}

}  // namespace dynatrain::binding
