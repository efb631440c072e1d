#pragma once

#include "dynatrain/transport/peer_memory.hpp"
#include "dynatrain/transport/store.hpp"

#include <memory>
#include <string>
#include <vector>

namespace dynatrain {

struct CudaIpcOptions {
  int device = 0;  ///< CUDA device of this rank
};

/// Adds to `messages` a one-sided part through which `ranks`, those of this host in ascending
/// order, read each other's device memory, where every one of them can read that of all others;
/// otherwise it only forwards.
///
/// Every rank makes memory of both kinds, and tries to read that of every other; what one of them
/// cannot, none does. The report says why.
///
/// Ownership  `messages` must outlive the transport, which keeps `store`: one of these ranks alone.
///            A run closes what it has
///            mapped before it acknowledges, so that nothing is freed while a peer has it open:
///            CUDA calls that undefined. The transport must end before the process's CUDA context.
/// Threads    collective over `ranks`, also where this build or this process has no
///            CUDA. The one-sided part: one caller at a time; abort() at any time.
/// Errors     TransportError when a rank does not come before the deadline; nothing is left behind.
/// Cost       2 values set and 2 got by each, once; then 1 set a publication and rank, and 1 got
///            for each peer that is read. A socket, and a connection to each peer; once files are
///            published, a second socket and a thread that sleeps.
/// Source     own; docs/design/transport.md, "cuda_ipc".
[[nodiscard]] PeerMemoryConnection make_cuda_ipc_transport(Transport& messages,
                                                           std::shared_ptr<Store> store,
                                                           std::vector<int> ranks,
                                                           const CudaIpcOptions& options,
                                                           Deadline deadline);

/// Why this process alone could not share device memory (no driver, not built); empty when it may.
/// Looks at no device.
[[nodiscard]] std::string cuda_ipc_problem();

}  // namespace dynatrain
