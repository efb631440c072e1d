#include "transport/cuda_ipc/abort_flag.hpp"

#include "dynatrain/base/error.hpp"

namespace dynatrain {

void AbortFlag::raise(const std::string& reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (reason_.empty()) {
    reason_ = reason.empty() ? "no reason was given" : reason;
  }
}

void AbortFlag::check() const {
  const std::lock_guard lock(mutex_);
  if (!reason_.empty()) {
    throw TransportError("transport: this rank's transport was aborted: " + reason_, -1, -1, false);
  }
}

}  // namespace dynatrain
