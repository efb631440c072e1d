#include "transport/peer_memory/local_socket.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <system_error>

namespace dynatrain {
namespace {

constexpr int kNumWaiting =
    512;  // connections that wait to be accepted; the system may allow fewer
constexpr std::size_t kMaxMessageBytes = 1024;
constexpr std::string_view kDigits = "0123456789abcdef";

struct Address {
  sockaddr_un words{};
  socklen_t size_bytes = 0;

  explicit Address(const std::string& name) {
    words.sun_family = AF_UNIX;  // the zero byte in front of the name makes it abstract
    const std::size_t size = std::min(name.size(), sizeof(words.sun_path) - 1);
    std::memcpy(static_cast<char*>(words.sun_path) + 1, name.data(), size);
    size_bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
  }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&words); }
};

OwnedFile open_socket() {
  return OwnedFile(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/// Room for the one descriptor that a message may carry.
struct FileRoom {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> bytes{};
};

/// All descriptors of a message but the first are closed again.
OwnedFile take_file(msghdr& message) {
  OwnedFile taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    for (std::size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(part) + at, sizeof(number));
      OwnedFile file(number);
      if (!taken.is_open()) {
        taken = std::move(file);
      }
    }
  }
  return taken;
}

}  // namespace

std::string make_socket_name() {
  std::array<std::uint8_t, 16> random{};
  if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    throw DeviceError(
        "transport: the system gave no random name for a socket: " +
        std::generic_category().message(errno) + "\n  expected " + std::to_string(random.size()) +
        " random bytes of getrandom\n  nothing was opened; no state has changed\n  let "
        "the process call it (a container's seccomp profile may forbid it), or run "
        "over messages");
  }
  std::string name = "dynatrain-";
  for (const std::uint8_t byte : random) {
    name += kDigits[byte >> 4];
    name += kDigits[byte & 15];
  }
  return name;
}

SocketResult listen_at(const std::string& name) {
  OwnedFile listener = open_socket();
  const Address address(name);
  if (!listener.is_open() || bind(listener.get(), address.get(), address.size_bytes) != 0 ||
      listen(listener.get(), kNumWaiting) != 0) {
    return {.socket = OwnedFile(), .error = errno};
  }
  return {.socket = std::move(listener), .error = 0};
}

SocketResult accept_at(int listener) {
  OwnedFile accepted(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  const int error = accepted.is_open() ? 0 : errno;
  return {.socket = std::move(accepted), .error = error};
}

SocketResult connect_to(const std::string& name) {
  OwnedFile connected = open_socket();
  const Address address(name);
  if (!connected.is_open() || connect(connected.get(), address.get(), address.size_bytes) != 0) {
    return {.socket = OwnedFile(), .error = errno};
  }
  return {.socket = std::move(connected), .error = 0};
}

uid_t user_at(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0
             ? credentials.uid
             : static_cast<uid_t>(-1);
}

int send_message(int socket, const std::string& bytes, int file) {
  iovec part{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  FileRoom room;
  if (file >= 0) {
    message.msg_control = room.bytes.data();
    message.msg_controllen = room.bytes.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(file));
    std::memcpy(CMSG_DATA(header), &file, sizeof(file));
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 ? 0 : errno;
}

LocalMessage receive_message(int socket) {
  LocalMessage received;
  received.bytes.resize(kMaxMessageBytes);
  iovec part{.iov_base = received.bytes.data(), .iov_len = received.bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  FileRoom room;
  message.msg_control = room.bytes.data();
  message.msg_controllen = CMSG_LEN(sizeof(int));  // with the padding, two would fit
  const ssize_t size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  received.error = size >= 0 ? 0 : errno;
  received.bytes.resize(size >= 0 ? static_cast<std::size_t>(size) : 0);
  if (size >= 0) {
    received.file = take_file(message);
  }
  return received;
}

}  // namespace dynatrain
