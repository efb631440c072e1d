#pragma once

#include "dynatrain/base/token.hpp"
#include "dynatrain/transport/store.hpp"

#include <mutex>
#include <string>

namespace dynatrain {

/// The words of peers, with waits that an abort ends.
class StoreWait {
 public:
  /// Waits until `peer` has set `key`.
  /// Errors: TransportError naming the peer at the deadline, with the reason after abort().
  [[nodiscard]] std::string get(Store& store, const std::string& key, int peer, Deadline deadline);
  void abort(const std::string& reason) noexcept;
  void throw_if_aborted() const;

 private:
  mutable std::mutex mutex_;
  std::string aborted_;  ///< why; empty while it is not
};

}  // namespace dynatrain
