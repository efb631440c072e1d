#pragma once

#include "dynatrain/transport/store.hpp"

#include <pybind11/pybind11.h>

#include <string>

namespace dynatrain {

/// A torch Store behind the port. Reaches torch through Python, so that one build serves every
/// torch; takes the GIL for each call, and torch's own code releases it while it waits.
/// Threads  as Store; also without the GIL.
class TorchStore final : public Store {
 public:
  /// `store`  a torch.distributed.Store under a prefix that nobody else uses.
  explicit TorchStore(pybind11::object store) : store_(std::move(store)) {}
  ~TorchStore() override;
  TorchStore(const TorchStore&) = delete;
  TorchStore& operator=(const TorchStore&) = delete;

  void set(const std::string& key, const std::string& value) override;
  [[nodiscard]] std::string get(const std::string& key, Deadline deadline) override;

 private:
  pybind11::object store_;
};

}  // namespace dynatrain
