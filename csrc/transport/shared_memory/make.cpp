#include "dynatrain/transport/shared_memory.hpp"

#include "transport/peer_memory/transport.hpp"
#include "transport/shared_memory/host_ipc.hpp"
#include <utility>

namespace dynatrain {

PeerMemoryConnection make_shared_memory_transport(Transport& messages,
                                                  std::shared_ptr<Store> store,
                                                  std::vector<int> ranks,
                                                  Deadline deadline) {
  const IpcProbe probe{.rank = messages.rank(),
                       .ranks = std::move(ranks),
                       .api = make_host_ipc(),
                       .api_problem = {},
                       .place = this_place()};
  return connect_peer_memory(messages, std::move(store), probe, deadline);
}

}  // namespace dynatrain
