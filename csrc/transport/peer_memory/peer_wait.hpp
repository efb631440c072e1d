#pragma once

#include "dynatrain/base/token.hpp"
#include "dynatrain/transport/store.hpp"

#include "transport/peer_memory/lifelines.hpp"
#include <chrono>
#include <mutex>
#include <string>
#include <string_view>

namespace dynatrain {

/// Whether a transport was aborted, and why. Threads: any.
class AbortFlag {
 public:
  void raise(std::string_view reason) noexcept;
  /// Errors: TransportError with the reason once it is raised.
  void check() const;

 private:
  mutable std::mutex mutex_;
  std::string reason_;  ///< empty while it is not raised
};

/// Until when a wait for a peer goes on, and what else ends it.
struct PeerWait {
  /// How long an abort may go unseen: neither a store nor a socket has a call that ends a wait.
  static constexpr std::chrono::milliseconds kSlice{100};

  Deadline deadline;
  const AbortFlag& aborted;
  const Lifelines* lifelines = nullptr;  ///< by which the peer's end is seen
};

/// Waits until `peer` has set `key`.
/// Errors: TransportError naming the peer when it has ended, or at the deadline; with the reason
///         after an abort.
[[nodiscard]] std::string wait_for_word(Store& store,
                                        const std::string& key,
                                        int peer,
                                        const PeerWait& wait);

}  // namespace dynatrain
