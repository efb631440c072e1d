#pragma once

#include "transport/peer_memory/owned_file.hpp"
#include <string>
#include <sys/types.h>

namespace dynatrain {

// Unix-domain sockets under names of Linux's abstract namespace: they need no folder, and vanish
// with the last process that holds them. They keep messages whole, carry open files, and belong to
// a network namespace. Nothing here waits: what cannot be done at once ends with EAGAIN.

/// A socket, or why there is none.
struct SocketResult {
  OwnedFile socket;
  int error = 0;  ///< errno; 0 when there is one
};

/// What came in one message. Neither bytes nor error: the other end has closed.
struct LocalMessage {
  std::string bytes;
  OwnedFile file;  ///< the one that came with it, if any
  int error = 0;   ///< errno; 0 when something came
};

/// A name of 128 random bits.
/// Errors: DeviceError when the system gives none.
[[nodiscard]] std::string make_socket_name();
[[nodiscard]] SocketResult listen_at(const std::string& name);
[[nodiscard]] SocketResult accept_at(int listener);
[[nodiscard]] SocketResult connect_to(const std::string& name);
/// The user whose process is at the other end; -1 when the system does not say.
[[nodiscard]] uid_t user_at(int socket);

/// Sends one message, with a copy of `file` unless that is negative. Returns errno, 0 when it went.
[[nodiscard]] int send_message(int socket, const std::string& bytes, int file = -1);
[[nodiscard]] LocalMessage receive_message(int socket);

}  // namespace dynatrain
