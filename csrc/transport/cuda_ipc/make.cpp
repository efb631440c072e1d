#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/cuda_ipc.hpp"

#include "transport/cuda_ipc/driver_calls.hpp"
#include "transport/peer_memory/transport.hpp"
#include <utility>

namespace dynatrain {

PeerMemoryConnection make_cuda_ipc_transport(Transport& messages,
                                             std::shared_ptr<Store> store,
                                             std::vector<int> ranks,
                                             const CudaIpcOptions& options,
                                             Deadline deadline) {
  IpcProbe probe{.rank = messages.rank(),
                 .ranks = std::move(ranks),
                 .api = nullptr,
                 .api_problem = {},
                 .place = this_place()};
  try {
    probe.api = load_ipc_api(options.device);
  } catch (const DeviceError& error) {
    probe.api_problem = error.what();  // the others wait for this rank's word
  }
  return connect_peer_memory(messages, std::move(store), probe, deadline);
}

std::string cuda_ipc_problem() {
  return driver_problem();
}

}  // namespace dynatrain
