#pragma once

#include "dynatrain/execution/transport.hpp"

#include <memory>
#include <string>

namespace dynatrain {

/// What the ranks of a machine found when they tried to read each other's memory; equal on all of
/// them.
struct PeerMemoryReport {
  std::string problem;  ///< why there is no one-sided part; empty when there is one
  /// Why memory of cudaMalloc, or a process's own host memory, cannot be read; empty when it can.
  std::string handle_problem;
  std::string file_problem;  ///< the same for memory that is handed over as a file
};

/// A transport of messages with a one-sided part, where every rank of the machine can read the
/// memory of all its others; otherwise it only forwards.
struct PeerMemoryConnection {
  std::unique_ptr<Transport> transport;
  PeerMemoryReport report;
};

}  // namespace dynatrain
