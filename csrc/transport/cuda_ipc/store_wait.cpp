#include "transport/cuda_ipc/store_wait.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <chrono>

namespace dynatrain {
namespace {

/// How long an abort may go unseen: a store has no call that ends a wait.
constexpr std::chrono::milliseconds kSlice{100};

}  // namespace

std::string StoreWait::get(Store& store, const std::string& key, int peer, Deadline deadline) {
  while (true) {
    throw_if_aborted();
    const Deadline slice = std::min(deadline, deadline_in(kSlice));
    try {
      return store.get(key, slice);
    } catch (const TransportError& error) {
      const Deadline now = std::chrono::steady_clock::now();
      const bool is_slice_over = now >= slice;
      if (is_slice_over && now < deadline) {
        continue;
      }
      throw_if_aborted();
      throw TransportError(
          "transport: rank " + std::to_string(peer) + " has not said where its memory lies" +
              (is_slice_over ? " before the deadline" : "") + "\n  it may be dead or far behind: " +
              error.what() + "\n  nothing of it was read; no state has changed",
          peer,
          -1,
          true);
    }
  }
}

void StoreWait::abort(const std::string& reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (aborted_.empty()) {
    aborted_ = reason.empty() ? "no reason was given" : reason;
  }
}

void StoreWait::throw_if_aborted() const {
  const std::lock_guard lock(mutex_);
  if (!aborted_.empty()) {
    throw TransportError(
        "transport: this rank's transport was aborted: " + aborted_, -1, -1, false);
  }
}

}  // namespace dynatrain
