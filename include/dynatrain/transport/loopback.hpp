#pragma once

#include "dynatrain/execution/transport.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace dynatrain {

/// How a loopback world treats messages.
struct LoopbackOptions {
  /// No buffering at all: a send ends only when its receive has been posted and copied.
  /// Otherwise a send is copied into a mailbox and ends at once.
  bool rendezvous = true;
  /// Seeds an adversary that delays and reorders completions; 0 means none. The same seed gives
  /// the same choices.
  std::uint64_t adversary_seed = 0;
  bool one_sided = false;
  /// Ranks of one machine read each other's memory, those of several do not; 0: all are of one.
  int ranks_per_machine = 0;
};

/// Ranks as threads of one process. Thread-safe.
class LoopbackWorld {
 public:
  LoopbackWorld(int size, LoopbackOptions options);
  ~LoopbackWorld();
  LoopbackWorld(const LoopbackWorld&) = delete;
  LoopbackWorld& operator=(const LoopbackWorld&) = delete;

  /// The transport of `rank`; one per rank. Must not outlive the world.
  [[nodiscard]] std::unique_ptr<Transport> transport(int rank);
  /// Makes `rank` fall silent as a killed process does: its operations end with an error, those of
  /// its peers that wait for it end with TransportError(peer = rank).
  void kill(int rank);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace dynatrain
