#pragma once

#include "dynatrain/base/token.hpp"

namespace dynatrain {

/// A completion that a device stream can wait for, so that the host need not.
///
/// Rooms that do not see each other (transports and copiers) order their streams by it: whoever
/// gets such a token in `after` calls order_before() once is_on_stream(), and wait() for every
/// other one. The owner puts the wait on the stream under its own lock: an event that it handed out
/// could be recorded anew before anybody waits for it, and a stream would then wait for itself.
/// Threads and streams   any thread may call; streams are those of the runtime (cudaStream_t on
///                       CUDA), of any device.
class DeviceCompletion : public Completion {
 public:
  /// False while nothing can be ordered behind the operation: it waits on the host, never reached a
  /// device, or has failed. wait() tells.
  [[nodiscard]] virtual bool is_on_stream() const = 0;
  /// Makes everything that is put on `stream` from now on wait for the operation; does nothing when
  /// it has ended. Errors: InternalError where it was never on a stream, DeviceError.
  virtual void order_before(void* stream) = 0;
};

/// The device completion behind `token` when a stream can be ordered behind it, else null.
[[nodiscard]] inline DeviceCompletion* on_stream(const Token& token) {
  auto* const completion = dynamic_cast<DeviceCompletion*>(token.completion().get());
  return completion != nullptr && completion->is_on_stream() ? completion : nullptr;
}

}  // namespace dynatrain
