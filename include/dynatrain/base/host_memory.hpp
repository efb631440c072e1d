#pragma once

#include <cstdint>

namespace dynatrain {

/// Bytes that processes of this machine, and the control group around this one, can still take; the
/// largest number where neither is known. Reads three small files of the system. Any thread.
[[nodiscard]] std::int64_t available_host_bytes();

}  // namespace dynatrain
