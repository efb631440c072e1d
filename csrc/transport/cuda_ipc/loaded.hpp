#pragma once

#include "transport/cuda_ipc/ipc_api.hpp"
#include <memory>
#include <string>

namespace dynatrain {

/// CUDA's driver, as this process has it, on a device.
/// Errors: DeviceError that says what is missing.
[[nodiscard]] std::shared_ptr<IpcApi> load_ipc_api(int device);
/// Why the driver cannot be used; empty when it can. Looks at no device.
[[nodiscard]] std::string driver_problem();

}  // namespace dynatrain
