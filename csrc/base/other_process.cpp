#include "base/other_process.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string>
#include <system_error>

namespace dynatrain {
namespace {

std::string name_of(OtherProcess process) {
  const std::string number = "process " + std::to_string(process.number);
  return process.rank < 0 ? number : "rank " + std::to_string(process.rank) + " (" + number + ")";
}

[[noreturn]] void throw_unread(OtherProcess process,
                               std::int64_t expected,
                               std::int64_t got,
                               int error) {
  throw DeviceError(
      "transport: memory of " + name_of(process) + " cannot be read: " +
      (error != 0 ? std::generic_category().message(error) : std::string("a part is not there")) +
      "\n  expected " + std::to_string(expected) + " bytes, got " +
      std::to_string(std::max<std::int64_t>(got, 0)) +
      "\n  the source state is as it was\n  look whether that process has ended; where the system "
      "forbids the read (kernel.yama.ptrace_scope, a container without ptrace) the next call finds "
      "that out and sends messages");
}

struct Read {
  std::int64_t expected = 0;
  std::int64_t got = 0;
  int error = 0;  ///< of the system, where it has read nothing
};

Read tried(OtherProcess process, std::span<const iovec> own, std::span<const iovec> theirs) {
  Read read;
  for (const iovec& piece : theirs) {
    read.expected += static_cast<std::int64_t>(piece.iov_len);
  }
  read.got =
      process_vm_readv(process.number, own.data(), own.size(), theirs.data(), theirs.size(), 0);
  read.error = read.got < 0 ? errno : 0;
  return read;
}

}  // namespace

void read_process(OtherProcess process, std::span<const iovec> own, std::span<const iovec> theirs) {
  const Read read = tried(process, own, theirs);
  if (read.got != read.expected) {
    throw_unread(process, read.expected, read.got, read.error);
  }
}

void read_peer(OtherProcess process, std::span<const iovec> own, std::span<const iovec> theirs) {
  const Read read = tried(process, own, theirs);
  if (read.got == read.expected) {
    return;
  }
  const bool has_ended = read.error == ESRCH || (kill(process.number, 0) != 0 && errno == ESRCH);
  if (has_ended) {
    throw TransportError(
        "transport: " + name_of(process) +
            " has ended while its memory was read\n  expected it to live until all "
            "have read\n  the source state is as it was\n  see the output of that "
            "rank",
        process.rank,
        -1,
        true);
  }
  throw_unread(process, read.expected, read.got, read.error);
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
