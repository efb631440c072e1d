#pragma once

#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/store.hpp"

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

namespace dynatrain {

/// A store for ranks that are threads of one process.
class ThreadStore final : public Store {
 public:
  void set(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(mutex_);
    values_.emplace(key, value);
    is_set_.notify_all();
  }
  std::string get(const std::string& key, Deadline deadline) override {
    std::unique_lock lock(mutex_);
    if (!is_set_.wait_until(lock, deadline, [&] { return values_.contains(key); })) {
      throw TransportError("the store has no '" + key + "'", -1, -1, true);
    }
    return values_.at(key);
  }

 private:
  std::mutex mutex_;
  std::condition_variable is_set_;
  std::map<std::string, std::string> values_;
};

}  // namespace dynatrain
