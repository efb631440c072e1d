#pragma once

#include "dynatrain/base/token.hpp"

#include "transport/cuda_ipc/driver_calls.hpp"
#include <cstdint>

namespace dynatrain {

// Copies of a word between host and device, on a stream of their own: those of the default stream
// wait for the kernels of a training step, and for what those wait for.
// Errors  DeviceError; at the deadline too, and what the copy uses is left to it then.

/// On return the word is on the device, where other processes read it.
void write_word(const DriverCalls& cuda, DevicePointer dst, std::uint64_t word, Deadline deadline);
[[nodiscard]] std::uint64_t read_word(const DriverCalls& cuda,
                                      DevicePointer src,
                                      Deadline deadline);

}  // namespace dynatrain
