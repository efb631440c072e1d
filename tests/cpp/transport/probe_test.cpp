// What the probe asks of the store, and whom it names, however many ranks there are.

#include "transport/peer_memory/probe.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "transport/ipc_fake.hpp"
#include "transport/ipc_world.hpp"
#include "transport/thread_store.hpp"
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

/// One rank's way to the store of all.
class CountingStore final : public Store {
 public:
  explicit CountingStore(Store& store) : store_(store) {}
  void set(const std::string& key, const std::string& value) override {
    ++num_sets;
    store_.set(key, value);
  }
  std::string get(const std::string& key, Deadline deadline) override {
    asked.insert(key);
    return store_.get(key, deadline);
  }

  int num_sets = 0;
  std::set<std::string> asked;  ///< a wait asks in slices

 private:
  Store& store_;
};

struct Outcome {
  PeerMemoryReport report;
  std::string error;
  int peer = -1;
  int num_sets = 0;
  std::size_t num_keys = 0;
};

/// Ranks of one machine, of which the first `num_come` come.
std::vector<Outcome> probe_all(int num_ranks, int num_come, std::chrono::milliseconds timeout) {
  const auto machine = std::make_shared<FakeIpcMachine>();
  ThreadStore shared;
  std::vector<Outcome> outcomes(static_cast<std::size_t>(num_come));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_come; ++rank) {
    threads.emplace_back([&, rank] {
      Outcome& outcome = outcomes[static_cast<std::size_t>(rank)];
      CountingStore store(shared);
      Lifelines lifelines;
      const IpcProbe probe{.rank = rank,
                           .ranks = all_ranks(num_ranks),
                           .api = std::make_shared<FakeIpc>(machine, rank),
                           .api_problem = {},
                           .place = {.boot = "boot", .host = "host", .network_space = "space"}};
      try {
        outcome.report = run_probe(probe, lifelines, store, deadline_in(timeout));
      } catch (const TransportError& error) {
        outcome.error = error.what();
        outcome.peer = error.peer;
      }
      outcome.num_sets = store.num_sets;
      outcome.num_keys = store.asked.size();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return outcomes;
}

// The store is one process for the whole job: N ranks that each ask it for N words stop it.
TEST(PeerMemoryProbe, RankBehindTheFirstTellsTwoWordsAndAsksForTwo) {
  const std::vector<Outcome> outcomes = probe_all(6, 6, std::chrono::seconds(20));
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.report.problem + outcome.error, "");
    EXPECT_EQ(outcome.num_sets, 2);
  }
  EXPECT_EQ(outcomes[0].num_keys, 10);
  for (std::size_t rank = 1; rank < outcomes.size(); ++rank) {
    EXPECT_EQ(outcomes[rank].num_keys, 2) << "rank " << rank;
  }
}

// The first rank alone waits for it; the others would blame the first rank.
TEST(PeerMemoryProbe, MissingRankIsNamedOnAllThatCame) {
  const std::vector<Outcome> outcomes = probe_all(4, 3, std::chrono::milliseconds(600));
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.peer, 3);
    EXPECT_EQ(outcome.error, outcomes[0].error);
  }
  EXPECT_NE(outcomes[0].error.find("rank 3 has not said"), std::string::npos) << outcomes[0].error;
}

}  // namespace
}  // namespace dynatrain
