#include "transport/cuda_ipc/peer_file.hpp"

#include "dynatrain/base/error.hpp"

#include <cerrno>
#include <string>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>

namespace dynatrain {
namespace {

// The same numbers on every architecture; glibc has wrappers from 2.36 on only.
constexpr long kPidfdOpen = 434;
constexpr long kPidfdGetfd = 438;

[[noreturn]] void throw_refused(const std::string& what, int error) {
  throw DeviceError("transport: " + what + " failed: " + std::generic_category().message(error) +
                    (error == EPERM
                         ? "\n  the system forbids it to look into the other process: see "
                           "kernel.yama.ptrace_scope, and the container's capability SYS_PTRACE"
                         : "\n  Linux 5.6 or newer is needed, and one process namespace"));
}

}  // namespace

int fetch_peer_file(int process, int file) {
  const long peer = syscall(kPidfdOpen, process, 0);
  if (peer < 0) {
    throw_refused("pidfd_open of process " + std::to_string(process), errno);
  }
  const long fetched = syscall(kPidfdGetfd, peer, file, 0);
  const int error = errno;
  close(static_cast<int>(peer));
  if (fetched < 0) {
    throw_refused("pidfd_getfd of process " + std::to_string(process), error);
  }
  return static_cast<int>(fetched);
}

void close_own_file(int file) {
  if (close(file) != 0) {
    throw_refused("close of file " + std::to_string(file), errno);
  }
}

}  // namespace dynatrain
