#pragma once

#include "dynatrain/transport/peer_memory.hpp"
#include "dynatrain/transport/store.hpp"

#include "transport/peer_memory/ipc_api.hpp"
#include "transport/peer_memory/lifelines.hpp"
#include <memory>
#include <string>
#include <vector>

namespace dynatrain {

/// Where a process runs. Processes reach each other's memory only within one boot of one machine,
/// and each other's files only where the name of a socket means the same to both.
struct IpcPlace {
  std::string boot;
  std::string host;  ///< for people
  std::string network_space;
};
[[nodiscard]] IpcPlace this_place();

/// One rank as it takes part in the probe.
struct IpcProbe {
  int rank = 0;
  std::vector<int> ranks;       ///< of one machine, ascending, this one among them
  std::shared_ptr<IpcApi> api;  ///< null where there is none
  std::string api_problem;      ///< why there is none
  IpcPlace place;
};

/// Tries both kinds of memory between these ranks, and agrees on what works between all of them.
/// Collective over them; `store` is theirs alone.
/// Afterwards `lifelines` watches all peers that can be reached.
/// Errors: TransportError when a rank does not come; the probe's memory is freed all the same.
[[nodiscard]] PeerMemoryReport run_probe(const IpcProbe& probe,
                                         Lifelines& lifelines,
                                         Store& store,
                                         Deadline deadline);

}  // namespace dynatrain
