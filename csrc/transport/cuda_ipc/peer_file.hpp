#pragma once

namespace dynatrain {

/// A copy, in this process, of file descriptor `file` of `process`; the caller closes it.
/// Errors: DeviceError with the system's words, and what usually stands in the way.
[[nodiscard]] int fetch_peer_file(int process, int file);
/// Errors: DeviceError.
void close_own_file(int file);

}  // namespace dynatrain
