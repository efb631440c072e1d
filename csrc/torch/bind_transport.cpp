#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/cuda_ipc.hpp"
#include "dynatrain/transport/loopback.hpp"
#include "dynatrain/transport/nccl.hpp"
#include "dynatrain/transport/shared_memory.hpp"

#include "torch/bind.hpp"
#include "torch/c10d_transport.hpp"
#include "torch/torch_store.hpp"
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace dynatrain::binding {
namespace {

/// (peer, tag, address, size_bytes); the caller keeps the memory until the token is done.
using PyMessage = std::tuple<int, std::uint32_t, std::uintptr_t, std::int64_t>;

std::vector<WireMessage> to_messages(const std::vector<PyMessage>& given) {
  std::vector<WireMessage> messages;
  messages.reserve(given.size());
  for (const auto& [peer, tag, address, size_bytes] : given) {
    auto* const data = reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
    messages.push_back({peer, tag, data, size_bytes});
  }
  return messages;
}

Token send(Transport& self,
           const std::vector<PyMessage>& messages,
           double timeout_s,
           const std::vector<Token>& after) {
  return self.submit_sends(to_messages(messages), after, deadline_in(to_ms(timeout_s)));
}

Token receive(Transport& self,
              const std::vector<PyMessage>& messages,
              double timeout_s,
              const std::vector<Token>& after) {
  return self.submit_receives(to_messages(messages), after, deadline_in(to_ms(timeout_s)));
}

void bind_port(py::module_& m) {
  py::class_<Token>(m, "Token")
      .def("done", &Token::done, NoGil())
      .def(
          "wait",
          [](const Token& self, double timeout_s) { self.wait(deadline_in(to_ms(timeout_s))); },
          py::arg("timeout_s"),
          NoGil());
  py::class_<Transport>(m, "Transport")
      .def_property_readonly("rank", &Transport::rank)
      .def_property_readonly("size", &Transport::size)
      .def("submit_sends",
           &send,
           py::arg("messages"),
           py::arg("timeout_s"),
           py::arg("after") = std::vector<Token>{},
           NoGil())
      .def("submit_receives",
           &receive,
           py::arg("messages"),
           py::arg("timeout_s"),
           py::arg("after") = std::vector<Token>{},
           NoGil())
      .def_property_readonly("is_one_sided",
                             [](Transport& self) { return self.one_sided() != nullptr; })
      .def("abort", &Transport::abort, py::arg("reason"), NoGil());
}

std::unique_ptr<C10dTransport> make_c10d(const py::object& group,
                                         int rank,
                                         int size,
                                         double timeout_s) {
  auto transport = std::make_unique<C10dTransport>(group, to_ms(timeout_s));
  if (transport->rank() != rank || transport->size() != size) {
    throw LayoutError("transport: the process group says rank " +
                      std::to_string(transport->rank()) + " of " +
                      std::to_string(transport->size()) + "\n  expected rank " +
                      std::to_string(rank) + " of " + std::to_string(size) +
                      "\n  nothing was sent\n  pass the group that spans these ranks in order");
  }
  return transport;
}

std::unique_ptr<Transport> make_nccl(
    int rank, int size, Store& store, int device, double timeout_s, bool register_staging) {
  NcclOptions options;
  options.device = device;
  options.register_staging = register_staging;
  return make_nccl_transport(rank, size, options, store, deadline_in(to_ms(timeout_s)));
}

void bind_store(py::module_& m) {
  const py::class_<Store, std::shared_ptr<Store>> store(m, "Store");
  py::class_<TorchStore, Store, std::shared_ptr<TorchStore>>(m, "TorchStore")
      .def(py::init<py::object>(), py::arg("store"))
      .def(
          "set",
          [](TorchStore& self, const std::string& key, const py::bytes& value) {
            const std::string bytes(value);
            const py::gil_scoped_release no_gil;
            self.set(key, bytes);
          },
          py::arg("key"),
          py::arg("value"))
      .def(
          "get",
          [](TorchStore& self, const std::string& key, double timeout_s) {
            std::string value;
            {
              const py::gil_scoped_release no_gil;
              value = self.get(key, deadline_in(to_ms(timeout_s)));
            }
            return py::bytes(value);
          },
          py::arg("key"),
          py::arg("timeout_s"));
}

void bind_nccl(py::module_& m) {
  m.def("NcclTransport",
        &make_nccl,
        py::arg("rank"),
        py::arg("size"),
        py::arg("store"),
        py::arg("device"),
        py::arg("timeout_s"),
        py::arg("register_staging") = false,
        NoGil());
  py::class_<NcclReport>(m, "NcclReport")
      .def_readonly("problem", &NcclReport::problem)
      .def_readonly("version", &NcclReport::version)
      .def_readonly("newer_calls", &NcclReport::newer_calls)
      .def_readonly("registration_problem", &NcclReport::registration_problem);
  m.def("nccl_report", &nccl_report, NoGil());
}

PeerMemoryConnection connect_cuda_ipc(Transport& messages,
                                      std::shared_ptr<Store> store,
                                      std::vector<int> ranks,
                                      int device,
                                      double timeout_s) {
  return make_cuda_ipc_transport(messages,
                                 std::move(store),
                                 std::move(ranks),
                                 {.device = device},
                                 deadline_in(to_ms(timeout_s)));
}

PeerMemoryConnection connect_shared_memory(Transport& messages,
                                           std::shared_ptr<Store> store,
                                           std::vector<int> ranks,
                                           double timeout_s) {
  return make_shared_memory_transport(
      messages, std::move(store), std::move(ranks), deadline_in(to_ms(timeout_s)));
}

void bind_peer_memory(py::module_& m) {
  py::class_<PeerMemoryReport>(m, "PeerMemoryReport")
      .def_readonly("problem", &PeerMemoryReport::problem)
      .def_readonly("handle_problem", &PeerMemoryReport::handle_problem)
      .def_readonly("file_problem", &PeerMemoryReport::file_problem);
  py::class_<PeerMemoryConnection>(m, "PeerMemoryConnection")
      .def_property_readonly(
          "transport",
          [](const PeerMemoryConnection& self) { return self.transport.get(); },
          py::return_value_policy::reference_internal)
      .def_readonly("report", &PeerMemoryConnection::report);
  m.def("connect_cuda_ipc",
        &connect_cuda_ipc,
        py::arg("messages"),
        py::arg("store"),
        py::arg("ranks"),
        py::arg("device"),
        py::arg("timeout_s"),
        py::keep_alive<0, 1>(),
        NoGil());
  m.def("connect_shared_memory",
        &connect_shared_memory,
        py::arg("messages"),
        py::arg("store"),
        py::arg("ranks"),
        py::arg("timeout_s"),
        py::keep_alive<0, 1>(),
        NoGil());
  m.def("cuda_ipc_problem", &cuda_ipc_problem, NoGil());
  py::class_<SharedBlock>(m, "SharedBlock", py::buffer_protocol())
      .def(py::init<std::int64_t>(), py::arg("size_bytes"), NoGil())
      .def_property_readonly("size_bytes", &SharedBlock::size_bytes)
      .def_static(
          "holds",
          [](std::uintptr_t address) {
            // NOLINTNEXTLINE(performance-no-int-to-ptr): how Python has addresses
            return SharedBlock::holds(reinterpret_cast<const std::byte*>(address));
          },
          py::arg("address"))
      .def_buffer([](SharedBlock& self) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(self.data()), self.size_bytes());
      });
}

}  // namespace

void bind_transport(py::module_& m) {
  bind_port(m);
  py::class_<C10dTransport, Transport>(m, "C10dTransport")
      .def(py::init(&make_c10d),
           py::arg("group"),
           py::arg("rank"),
           py::arg("size"),
           py::arg("timeout_s"));
  py::class_<LoopbackWorld>(m, "LoopbackWorld")
      .def(py::init([](int size, bool rendezvous, std::uint64_t adversary_seed, bool one_sided) {
             return std::make_unique<LoopbackWorld>(
                 size, LoopbackOptions{rendezvous, adversary_seed, one_sided});
           }),
           py::arg("size"),
           py::arg("rendezvous") = true,
           py::arg("adversary_seed") = 0,
           py::arg("one_sided") = false)
      .def("transport", &LoopbackWorld::transport, py::arg("rank"), py::keep_alive<0, 1>())
      .def("kill", &LoopbackWorld::kill, py::arg("rank"), NoGil());
  m.def("probe_c10d", &probe_c10d);
  bind_store(m);
  bind_nccl(m);
  bind_peer_memory(m);
}

}  // namespace dynatrain::binding
