#pragma once

// Ranks over the fake NCCL, connected as threads.

#include "transport/nccl/transport.hpp"
#include "transport/nccl_fake.hpp"
#include "transport/thread_store.hpp"
#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {

inline Deadline late() {
  return deadline_in(std::chrono::seconds(20));
}

/// The text of the error that `what` ends with.
template <class What>
std::string error_of(const What& what) {
  try {
    what();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

struct FakeNcclWorld {
  explicit FakeNcclWorld(int num_ranks, const NcclOptions& options = {})
      : cluster(std::make_shared<FakeCluster>(num_ranks)),
        transports(static_cast<std::size_t>(num_ranks)) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      nccl.push_back(std::make_shared<FakeNccl>(cluster, rank));
      devices.push_back(std::make_shared<FakeDevice>(cluster, rank));
    }
    std::vector<std::thread> threads;
    for (int rank = 0; rank < num_ranks; ++rank) {
      threads.emplace_back([&, rank] {
        const auto index = static_cast<std::size_t>(rank);
        transports[index] = connect_nccl({.nccl = nccl[index], .device = devices[index]},
                                         {.rank = rank, .size = num_ranks},
                                         options,
                                         store,
                                         deadline_in(std::chrono::seconds(10)));
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  [[nodiscard]] NcclTransport& rank(int rank) {
    return *transports[static_cast<std::size_t>(rank)];
  }
  [[nodiscard]] int num_calls(int rank, const std::string& name) {
    const std::lock_guard lock(cluster->mutex);
    return static_cast<int>(std::ranges::count(cluster->rank(rank).calls, name));
  }
  void kill(int rank) {
    const std::lock_guard lock(cluster->mutex);
    cluster->kill(rank);
  }

  ThreadStore store;
  std::shared_ptr<FakeCluster> cluster;
  std::vector<std::shared_ptr<FakeNccl>> nccl;
  std::vector<std::shared_ptr<FakeDevice>> devices;
  std::vector<std::unique_ptr<NcclTransport>> transports;
};

}  // namespace dynatrain
