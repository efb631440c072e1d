#pragma once

#include <cuda_runtime.h>

#include <source_location>
#include <string>

namespace dynatrain {

/// Returns when `status` is cudaSuccess.
/// Errors: DeviceError, with CUDA's name and text for it, as thrown from the caller's line.
void check(cudaError_t status,
           const std::string& what,
           std::source_location where = std::source_location::current());

}  // namespace dynatrain
