#include "torch/c10d_group.hpp"

#include "dynatrain/base/error.hpp"

#include <array>
#include <new>
#include <string_view>
#include <utility>

namespace dynatrain {

namespace py = pybind11;

namespace {

/// No message of the library carries it (see wire_tag() in c10d_transport.cpp).
constexpr int kNeverSentTag = 0x7fffffff;

py::object resolve(const py::object& group) {
  if (!py::isinstance<py::str>(group)) {
    return group;
  }
  return py::module_::import("torch._C._distributed_c10d").attr("_resolve_process_group")(group);
}

/// True when `path`, a dotted name below module `root`, leads to something.
bool has(const char* root, std::string_view path) {
  try {
    py::object at = py::module_::import(root);
    while (!path.empty()) {
      const std::string_view name = path.substr(0, path.find('.'));
      at = at.attr(py::str(name.data(), name.size()));
      path.remove_prefix(std::min(path.size(), name.size() + 1));
    }
    return true;
  } catch (py::error_already_set&) {
    return false;
  }
}

}  // namespace

C10dGroup::C10dGroup(const py::object& group)
    : group_(resolve(group)),
      frombuffer_(py::module_::import("torch").attr("frombuffer")),
      uint8_(py::module_::import("torch").attr("uint8")),
      empty_(py::module_::import("torch").attr("empty")(
          0, py::arg("dtype") = uint8_, py::arg("device") = "cpu")),
      timedelta_(py::module_::import("datetime").attr("timedelta")),
      rank_(group_.attr("rank")().cast<int>()),
      size_(group_.attr("size")().cast<int>()) {}

// pybind11's guard is not marked noexcept; it throws nothing once Python runs.
C10dGroup::~C10dGroup() {  // NOLINT(bugprone-exception-escape)
  const py::gil_scoped_acquire gil;
  for (py::object* const held : {&group_, &frombuffer_, &uint8_, &empty_, &timedelta_}) {
    *held = py::object();
  }
}

py::object C10dGroup::as_tensor(std::span<std::byte> data) const {
  if (data.empty()) {
    return empty_;
  }
  const auto view = py::memoryview::from_memory(data.data(), static_cast<py::ssize_t>(data.size()));
  return frombuffer_(view, py::arg("dtype") = uint8_);
}

py::object C10dGroup::send(std::span<std::byte> data, int peer, int wire_tag) {
  py::list tensors;
  tensors.append(as_tensor(data));
  return group_.attr("send")(tensors, peer, wire_tag);
}

py::object C10dGroup::receive(std::span<std::byte> data, int peer, int wire_tag) {
  py::list tensors;
  tensors.append(as_tensor(data));
  return group_.attr("recv")(tensors, peer, wire_tag);
}

std::string C10dGroup::wait(const py::object& work, std::chrono::milliseconds timeout) {
  try {
    work.attr("wait")(timedelta_(py::arg("milliseconds") = timeout.count()));
    return {};
  } catch (py::error_already_set& error) {
    return text_of(error);
  }
}

std::string C10dGroup::text_of(const py::error_already_set& error) {
  if (error.matches(PyExc_MemoryError)) {
    throw std::bad_alloc();
  }
  try {
    // Not what(): it ends the process where there is no memory for its text.
    const std::string kind = py::str(error.type().attr("__name__"));
    const std::string text = kind + ": " + std::string(py::str(error.value()));
    return text.substr(0, text.find('\n'));
  } catch (const py::error_already_set& in_text) {
    if (in_text.matches(PyExc_MemoryError)) {
      throw std::bad_alloc();
    }
    return "an error without text";
  }
}

void C10dGroup::sever() noexcept {
  // Gloo has no abort that ends a wait (torch 2.11 to 2.15), but a wait that times out closes every
  // connection of its group. So wait, for the shortest time, for what nobody sends. A connection
  // that is closed already refuses the receive, hence one peer after the other.
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_ && !close_connection(peer)) {
      static_cast<void>(close_connection(peer));  // memory was short: once more
    }
  }
}

bool C10dGroup::close_connection(int peer) noexcept {
  // Static: a receive whose wait could not begin keeps its memory.
  static std::array<std::byte, 1> nothing{};
  try {
    const py::object work = receive(nothing, peer, kNeverSentTag);
    static_cast<void>(wait(work, std::chrono::milliseconds(1)));
  } catch (const py::error_already_set& error) {
    return !error.matches(PyExc_MemoryError);
  } catch (...) {
    return false;
  }
  return true;
}

std::map<std::string, bool> probe_c10d() {
  std::map<std::string, bool> found;
  for (const char* const name : {"frombuffer",
                                 "uint8",
                                 "distributed.ProcessGroup.send",
                                 "distributed.ProcessGroup.recv",
                                 "distributed.Work.wait",
                                 "distributed.ProcessGroupGloo"}) {
    found["torch." + std::string(name)] = has("torch", name);
  }
  found["torch.distributed.resolve_process_group"] =
      has("torch._C._distributed_c10d", "_resolve_process_group");
  return found;
}

}  // namespace dynatrain
