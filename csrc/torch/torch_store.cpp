#include "torch/torch_store.hpp"

#include "dynatrain/base/error.hpp"

#include "torch/c10d_group.hpp"
#include <algorithm>
#include <chrono>

namespace dynatrain {

namespace py = pybind11;

namespace {

TransportError failed(const std::string& what, const py::error_already_set& error) {
  return {"transport: the store of the job failed to " + what + "\n  " + C10dGroup::text_of(error) +
              "\n  no communicator was made, nothing was moved\n  see the output of the other "
              "ranks: one has died, or did not come",
          -1,
          -1,
          true};
}

}  // namespace

// pybind11's guard is not marked noexcept; it throws nothing once Python runs.
TorchStore::~TorchStore() {  // NOLINT(bugprone-exception-escape)
  const py::gil_scoped_acquire gil;
  store_ = py::object();
}

void TorchStore::set(const std::string& key, const std::string& value) {
  const py::gil_scoped_acquire gil;
  try {
    store_.attr("set")(key, py::bytes(value));
  } catch (const py::error_already_set& error) {
    throw failed("set '" + key + "'", error);
  }
}

std::string TorchStore::get(const std::string& key, Deadline deadline) {
  const py::gil_scoped_acquire gil;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  try {
    const py::object timeout =
        py::module_::import("datetime")
            .attr("timedelta")(py::arg("milliseconds") = std::max<std::int64_t>(1, left.count()));
    py::list keys;
    keys.append(key);
    store_.attr("wait")(keys, timeout);
    return store_.attr("get")(key).cast<std::string>();
  } catch (const py::error_already_set& error) {
    throw failed("get '" + key + "'", error);
  }
}

}  // namespace dynatrain
