#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/cuda_ipc.hpp"

#include "transport/cuda_ipc/loaded.hpp"
#include "transport/cuda_ipc/transport.hpp"
#include <utility>

namespace dynatrain {

#ifndef DYNATRAIN_HAS_CUDA_IPC

std::shared_ptr<IpcApi> load_ipc_api(int /*device*/) {
  throw DeviceError(driver_problem());
}

std::string driver_problem() {
  return "this build of dynatrain shares no device memory: cuda.h was not found when it was built";
}

#endif

CudaIpcConnection make_cuda_ipc_transport(Transport& messages,
                                          std::shared_ptr<Store> store,
                                          const CudaIpcOptions& options,
                                          Deadline deadline) {
  IpcProbe probe{.rank = messages.rank(),
                 .size = messages.size(),
                 .api = nullptr,
                 .api_problem = {},
                 .place = this_place()};
  try {
    probe.api = load_ipc_api(options.device);
  } catch (const DeviceError& error) {
    probe.api_problem = error.what();  // the others wait for this rank's word
  }
  return connect_cuda_ipc(messages, std::move(store), probe, options, deadline);
}

std::string cuda_ipc_problem() {
  return driver_problem();
}

}  // namespace dynatrain
