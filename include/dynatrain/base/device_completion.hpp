#pragma once

#include "dynatrain/base/token.hpp"

namespace dynatrain {

/// A completion that a device stream can wait for, so that the host need not.
///
/// Rooms that do not see each other (transports and copiers) order their streams by it: whoever
/// gets such a token in `after` makes its own stream wait for event(), and calls wait() for every
/// other one. Threads   any.
class DeviceCompletion : public Completion {
 public:
  /// The recorded event (a cudaEvent_t on CUDA), valid while this completion lives. Null when there
  /// is nothing to wait for on a device: the operation never reached one.
  [[nodiscard]] virtual void* event() const noexcept = 0;
};

}  // namespace dynatrain
