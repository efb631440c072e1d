#include "base/other_process.hpp"

#include "dynatrain/base/error.hpp"

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

namespace dynatrain {
namespace {

[[noreturn]] void throw_unread(int process, std::int64_t expected, std::int64_t got, int error) {
  throw DeviceError(
      "transport: memory of process " + std::to_string(process) + " cannot be read: " +
      (error != 0 ? std::generic_category().message(error) : std::string("a part is not there")) +
      "\n  expected " + std::to_string(expected) + " bytes, got " + std::to_string(got) +
      "\n  what was read is in the target; the source state is as it was\n  where the system "
      "forbids it "
      "(kernel.yama.ptrace_scope, a container without ptrace) messages go instead; else see why "
      "the "
      "process ended");
}

}  // namespace

void read_process(int process, std::span<const iovec> own, std::span<const iovec> theirs) {
  std::int64_t expected = 0;
  for (const iovec& piece : theirs) {
    expected += static_cast<std::int64_t>(piece.iov_len);
  }
  const std::int64_t got =
      process_vm_readv(process, own.data(), own.size(), theirs.data(), theirs.size(), 0);
  if (got != expected) {
    throw_unread(process, expected, got, got < 0 ? errno : 0);
  }
}

}  // namespace dynatrain
