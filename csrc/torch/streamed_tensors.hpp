#pragma once

#include "dynatrain/execution/stream.hpp"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace dynatrain {

/// torch's storages as memory that a run takes and frees while it goes.
///
/// A storage is taken and freed by its size (`resize_`), so that all tensors that lie in it stay
/// the objects they are. Nobody may read one while it has no memory.
/// Threads  take() and free() take the GIL; do not call them with it held by another thread that
///          waits for this one.
class StreamedTensors final : public StreamedMemory {
 public:
  /// One side's storages, each a torch.UntypedStorage, and their sizes when they have memory.
  struct Side {
    std::vector<pybind11::object> storages;
    std::vector<std::int64_t> size_bytes;
    std::vector<int> gaps;  ///< of which some bytes are no tensor's, and zeros when it is taken
  };

  /// Needs the GIL, as the destructor does.
  StreamedTensors(Side source, Side target);

  /// Errors   DeviceError with torch's words; std::bad_alloc where Python has no memory for them.
  [[nodiscard]] std::byte* take(int storage) override;
  /// Memory that torch does not give back stays with the storage.
  void free(int storage) noexcept override;

 private:
  void trim_behind(std::int64_t size_bytes) noexcept;

  Side source_;
  Side target_;
  std::int64_t untrimmed_bytes_ = 0;
};

}  // namespace dynatrain
