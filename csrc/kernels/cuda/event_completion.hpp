#pragma once

#include "dynatrain/base/device_completion.hpp"

namespace dynatrain {

/// A completion on a stream of this copier's device, by which other streams are ordered under the
/// lock of its owner: event() alone may be recorded anew between asking and waiting.
/// Threads and streams   any thread may call; streams are cudaStream_t of any device.
class EventCompletion : public DeviceCompletion {
 public:
  /// False while the operation still waits on the host for what it comes after; then nothing can be
  /// ordered behind it yet. Never becomes false again.
  [[nodiscard]] virtual bool is_on_stream() const = 0;
  /// Makes everything that is put on `stream` from now on wait for the operation; does nothing when
  /// it has ended. Errors: InternalError while !is_on_stream(), DeviceError.
  virtual void order_before(void* stream) = 0;
};

}  // namespace dynatrain
