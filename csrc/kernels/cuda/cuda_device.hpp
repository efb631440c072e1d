#pragma once

// What the CUDA part of this room hands to its plain part. Defined in .cu files, or not at all in a
// build without CUDA.

#include "kernels/cuda/stream_device.hpp"
#include <memory>
#include <string>

namespace dynatrain {

/// Why CUDA has no device to use, in its own words; empty when it has one.
[[nodiscard]] std::string cuda_device_problem();

/// Streams, memory and kernel of CUDA device `device`. Errors: DeviceError.
[[nodiscard]] std::unique_ptr<StreamDevice> make_cuda_device(int device);

}  // namespace dynatrain
