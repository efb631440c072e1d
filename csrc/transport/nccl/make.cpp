#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/nccl.hpp"

#include "transport/nccl/environment.hpp"
#include "transport/nccl/loaded.hpp"
#include "transport/nccl/transport.hpp"
#include <cstdlib>

namespace dynatrain {

NcclReport nccl_report() {
  NcclReport report = report_loaded_nccl();
  if (report.problem.empty()) {
    try {
      static_cast<void>(load_cuda_runtime());
    } catch (const DeviceError& error) {
      report.problem = error.what();
    }
  }
  return report;
}

std::unique_ptr<Transport> make_nccl_transport(
    int rank, int size, const NcclOptions& options, Store& store, Deadline deadline) {
  const std::string problem = environment_problem(std::getenv, options.max_channels);
  if (!problem.empty()) {
    throw DeviceError("transport: no NCCL communicator can be made\n  " + problem);
  }
  const NcclLibraries libraries{.nccl = load_nccl(), .device = load_cuda_runtime()};
  return connect_nccl(libraries, {.rank = rank, .size = size}, options, store, deadline);
}

std::string nccl_problem() {
  return nccl_report().problem;
}

std::string nccl_version() {
  return nccl_report().version;
}

}  // namespace dynatrain
