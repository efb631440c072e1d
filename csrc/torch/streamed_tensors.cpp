#include "torch/streamed_tensors.hpp"

#include "dynatrain/base/error.hpp"

#include "base/trim_heap.hpp"
#include "torch/c10d_group.hpp"
#include <algorithm>
#include <new>
#include <string>
#include <utility>

namespace dynatrain {

namespace py = pybind11;

namespace {

/// Freed memory that the heap may keep for itself: much less than a model's state.
constexpr std::int64_t kTrimBytes = std::int64_t{8} << 20U;

/// Sets all bytes of a storage to zero, and waits for it.
void zero(const py::object& storage) {
  storage.attr("fill_")(0);
  const py::object device = storage.attr("device");
  if (std::string(py::str(device.attr("type"))) == "cuda") {
    py::module_::import("torch").attr("cuda").attr("current_stream")(device).attr("synchronize")();
  }
}

}  // namespace

StreamedTensors::StreamedTensors(Side source, Side target)
    : source_(std::move(source)), target_(std::move(target)) {}

std::byte* StreamedTensors::take(int storage) {
  const py::gil_scoped_acquire gil;
  const auto index = static_cast<std::size_t>(storage);
  const py::object& taken = target_.storages[index];
  try {
    taken.attr("resize_")(target_.size_bytes[index]);
    if (std::ranges::find(target_.gaps, storage) != target_.gaps.end()) {
      zero(taken);
    }
    const auto address = taken.attr("data_ptr")().cast<std::uintptr_t>();
    return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
  } catch (const py::error_already_set& error) {
    throw DeviceError("execution: torch gives no memory of " +
                      std::to_string(target_.size_bytes[index]) +
                      " bytes for a storage of the target\n  torch: " + C10dGroup::text_of(error) +
                      "\n  the state is in parts, in source and target\n  free memory for it ahead "
                      "of the switch: the report of a prepared one says how much");
  }
}

void StreamedTensors::free(int storage) noexcept {
  const auto index = static_cast<std::size_t>(storage);
  try {
    const py::gil_scoped_acquire gil;
    source_.storages[index].attr("resize_")(0);
  } catch (...) {
    return;
  }
  trim_behind(source_.size_bytes[index]);
}

void StreamedTensors::trim_behind(std::int64_t size_bytes) noexcept {
  untrimmed_bytes_ += size_bytes;
  if (untrimmed_bytes_ >= kTrimBytes) {
    untrimmed_bytes_ = 0;
    trim_heap();
  }
}

}  // namespace dynatrain
