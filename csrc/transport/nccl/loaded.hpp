#pragma once

#include "dynatrain/transport/nccl.hpp"

#include "transport/nccl/world.hpp"
#include <memory>

namespace dynatrain {

/// The libraries of this process behind the two ports, looked up when the program runs.
/// Errors   DeviceError that says what is missing.
[[nodiscard]] std::shared_ptr<NcclApi> load_nccl();
[[nodiscard]] std::shared_ptr<DeviceApi> load_cuda_runtime();
/// What load_nccl() would find.
[[nodiscard]] NcclReport report_loaded_nccl();

}  // namespace dynatrain
