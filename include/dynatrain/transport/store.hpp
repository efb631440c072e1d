#pragma once

#include "dynatrain/base/token.hpp"

#include <string>

namespace dynatrain {

/// Port: the words that ranks tell each other before they have a transport, such as the id of a
/// communicator. Empty at first, for example a fresh prefix of a job's key-value store.
/// Threads  one caller at a time on each rank.
class Store {
 public:
  virtual ~Store() = default;
  /// Lets all ranks get `value` (any bytes) by `key`; a key is set once.
  /// Errors: TransportError when the store is gone.
  virtual void set(const std::string& key, const std::string& value) = 0;
  /// Waits until `key` is set. Errors: TransportError at the deadline or when the store is gone.
  [[nodiscard]] virtual std::string get(const std::string& key, Deadline deadline) = 0;
};

}  // namespace dynatrain
