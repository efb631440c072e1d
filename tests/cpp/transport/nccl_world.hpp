#pragma once

// Ranks over the fake NCCL, connected as threads.

#include "transport/nccl/transport.hpp"
#include "transport/nccl_fake.hpp"
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace dynatrain {

/// Hands the id over within the process.
class FakeIds final : public NcclIdExchange {
 public:
  void publish(const std::vector<std::byte>& id) override {
    const std::lock_guard lock(mutex_);
    id_ = id;
    published_.notify_all();
  }
  std::vector<std::byte> fetch(Deadline deadline) override {
    std::unique_lock lock(mutex_);
    if (!published_.wait_until(lock, deadline, [this] { return !id_.empty(); })) {
      throw TransportError("rank 0 has not published its id", 0, -1, true);
    }
    return id_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable published_;
  std::vector<std::byte> id_;
};

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
                                         ids,
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

  FakeIds ids;
  std::shared_ptr<FakeCluster> cluster;
  std::vector<std::shared_ptr<FakeNccl>> nccl;
  std::vector<std::shared_ptr<FakeDevice>> devices;
  std::vector<std::unique_ptr<NcclTransport>> transports;
};

}  // namespace dynatrain
