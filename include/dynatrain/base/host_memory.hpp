#pragma once

#include <cstdint>
#include <string>

namespace dynatrain {

/// Bytes that processes of this machine, and of the control groups around this one, can still take;
/// the largest number where neither is known. A group's cache of files that nobody has touched
/// lately counts as left. Both versions of control groups; any thread.
///
/// Args     root  of the system's files; another one in tests.
/// Cost     reads a few small files of the system, a few for each group that is nested.
[[nodiscard]] std::int64_t available_host_bytes(const std::string& root = "");

/// Bytes that this process may still map where its address space is limited (`ulimit -v`); the
/// largest number where it is not.
[[nodiscard]] std::int64_t available_address_bytes();

}  // namespace dynatrain
