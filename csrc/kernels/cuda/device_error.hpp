#pragma once

// nvcc 13.0 stops with an internal error at base/error.hpp (constructors that are inherited with a
// default argument), so the .cu files throw through these.

#include <source_location>
#include <string>

namespace dynatrain {

/// Throws DeviceError: `what` failed, as CUDA says in `why`.
[[noreturn]] void throw_device_error(const std::string& what,
                                     const std::string& why,
                                     std::source_location where);

/// Throws the TransportError of a wait on a stream that came to its deadline.
[[noreturn]] void throw_late(const std::string& what);

}  // namespace dynatrain
