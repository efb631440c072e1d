#include "base/other_process.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

namespace dynatrain {
namespace {

[[noreturn]] void throw_unread(OtherProcess process,
                               std::int64_t expected,
                               std::int64_t got,
                               int error) {
  const std::string number = "process " + std::to_string(process.number);
  const std::string whose =
      process.rank < 0 ? number : "rank " + std::to_string(process.rank) + " (" + number + ")";
  throw DeviceError(
      "transport: memory of " + whose + " cannot be read: " +
      (error != 0 ? std::generic_category().message(error) : std::string("a part is not there")) +
      "\n  expected " + std::to_string(expected) + " bytes, got " +
      std::to_string(std::max<std::int64_t>(got, 0)) +
      "\n  the source state is as it was\n  look whether that process has ended; where the system "
      "forbids the read (kernel.yama.ptrace_scope, a container without ptrace) the next call finds "
      "that out and sends messages");
}

}  // namespace

void read_process(OtherProcess process, std::span<const iovec> own, std::span<const iovec> theirs) {
  std::int64_t expected = 0;
  for (const iovec& piece : theirs) {
    expected += static_cast<std::int64_t>(piece.iov_len);
  }
  const std::int64_t got =
      process_vm_readv(process.number, own.data(), own.size(), theirs.data(), theirs.size(), 0);
  if (got != expected) {
    throw_unread(process, expected, got, got < 0 ? errno : 0);
  }
}

void check_readable(OtherProcess process, const std::byte* base, std::int64_t size_bytes) {
  if (size_bytes <= 0) {
    return;
  }
  std::array<std::byte, 2> bytes{};
  const iovec own{.iov_base = bytes.data(), .iov_len = bytes.size()};
  auto* const first = const_cast<std::byte*>(base);
  const std::array<iovec, 2> theirs{iovec{.iov_base = first, .iov_len = 1},
                                    iovec{.iov_base = first + size_bytes - 1, .iov_len = 1}};
  read_process(process, {&own, 1}, theirs);
}

}  // namespace dynatrain
