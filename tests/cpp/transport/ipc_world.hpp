#pragma once

// Ranks over the fake driver, with messages over loopback, connected as threads.

#include "dynatrain/transport/loopback.hpp"

#include "transport/ipc_fake.hpp"
#include "transport/peer_memory/transport.hpp"
#include "transport/thread_store.hpp"
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace dynatrain {

struct FakeIpcWorld {
  using Change = std::function<void(FakeIpcWorld& world, IpcProbe& probe)>;

  explicit FakeIpcWorld(int num_ranks, const Change& change = {})
      : loopback(num_ranks, {}), connections(static_cast<std::size_t>(num_ranks)) {
    std::vector<IpcProbe> probes;
    for (int rank = 0; rank < num_ranks; ++rank) {
      messages.push_back(loopback.transport(rank));
      probes.push_back({.rank = rank,
                        .size = num_ranks,
                        .api = std::make_shared<FakeIpc>(machine, rank),
                        .api_problem = {},
                        .place = {.boot = "boot", .host = "host", .network_space = "space"}});
      if (change) {
        change(*this, probes.back());
      }
    }
    std::vector<std::thread> threads;
    for (int rank = 0; rank < num_ranks; ++rank) {
      threads.emplace_back([&, rank] {
        const auto index = static_cast<std::size_t>(rank);
        connections[index] = connect_peer_memory(
            *messages[index], store, probes[index], deadline_in(std::chrono::seconds(20)));
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
  std::shared_ptr<ThreadStore> store = std::make_shared<ThreadStore>();
  LoopbackWorld loopback;
  std::vector<std::unique_ptr<Transport>> messages;
  std::vector<PeerMemoryConnection> connections;
  int next_tag = 0;  ///< for the executors of the next switch
};

}  // namespace dynatrain
