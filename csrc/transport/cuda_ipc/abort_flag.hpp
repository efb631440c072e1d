#pragma once

#include "dynatrain/base/token.hpp"

#include "transport/cuda_ipc/lifelines.hpp"
#include <mutex>
#include <string>

namespace dynatrain {

/// Whether a transport was aborted, and why. Threads: any.
class AbortFlag {
 public:
  void raise(const std::string& reason) noexcept;
  /// Errors: TransportError with the reason once it is raised.
  void check() const;

 private:
  mutable std::mutex mutex_;
  std::string reason_;  ///< empty while it is not raised
};

/// Until when a wait for a peer goes on, and what else ends it.
struct PeerWait {
  Deadline deadline;
  const AbortFlag& aborted;
  const Lifelines* lifelines = nullptr;  ///< by which the peer's end is seen
};

}  // namespace dynatrain
