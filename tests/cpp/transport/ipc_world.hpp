#pragma once

// Ranks over the fake driver, with messages over loopback, connected as threads.

#include "dynatrain/transport/loopback.hpp"

#include "transport/ipc_fake.hpp"
#include "transport/peer_memory/transport.hpp"
#include "transport/thread_store.hpp"
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

namespace dynatrain {

inline std::vector<int> all_ranks(int num_ranks) {
  std::vector<int> ranks(static_cast<std::size_t>(num_ranks));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

struct FakeIpcWorld {
  using Change = std::function<void(FakeIpcWorld& world, IpcProbe& probe)>;

  explicit FakeIpcWorld(int num_ranks, const Change& change = {})
      : loopback(num_ranks, {}), connections(static_cast<std::size_t>(num_ranks)) {
    std::vector<IpcProbe> probes;
    for (int rank = 0; rank < num_ranks; ++rank) {
      messages.push_back(loopback.transport(rank));
      probes.push_back({.rank = rank,
                        .ranks = all_ranks(num_ranks),
                        .api = std::make_shared<FakeIpc>(machine, rank),
                        .api_problem = {},
                        .place = {.boot = "boot", .host = "host", .network_space = "space"}});
      if (change) {
        change(*this, probes.back());
      }
      stores.try_emplace(probes.back().ranks.front(), std::make_shared<ThreadStore>());
    }
    std::vector<std::thread> threads;
    for (int rank = 0; rank < num_ranks; ++rank) {
      threads.emplace_back([&, rank] {
        const auto index = static_cast<std::size_t>(rank);
        connections[index] = connect_peer_memory(*messages[index],
                                                 stores.at(probes[index].ranks.front()),
                                                 probes[index],
                                                 deadline_in(std::chrono::seconds(20)));
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    machine->num_opens = 0;  // the probe's
  }

  [[nodiscard]] Transport& rank(int rank) {
    return *connections[static_cast<std::size_t>(rank)].transport;
  }
  [[nodiscard]] int size() const { return static_cast<int>(connections.size()); }
  [[nodiscard]] OneSided& side(int of_rank) { return *rank(of_rank).one_sided(); }
  [[nodiscard]] const PeerMemoryReport& report(int rank) {
    return connections[static_cast<std::size_t>(rank)].report;
  }

  std::shared_ptr<FakeIpcMachine> machine = std::make_shared<FakeIpcMachine>();
  std::map<int, std::shared_ptr<ThreadStore>> stores;  ///< of each machine, by its first rank
  LoopbackWorld loopback;
  std::vector<std::unique_ptr<Transport>> messages;
  std::vector<PeerMemoryConnection> connections;
  int next_tag = 0;  ///< for the executors of the next switch
};

}  // namespace dynatrain
