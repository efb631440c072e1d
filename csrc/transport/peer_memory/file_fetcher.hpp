#pragma once

#include "transport/peer_memory/local_socket.hpp"
#include "transport/peer_memory/peer_wait.hpp"
#include <cstdint>
#include <string>

namespace dynatrain {

/// Fetches files from one peer's FileServer, over a connection of its own.
/// Errors  DeviceError when the system or the owner refuses: messages still can. TransportError
///         naming the peer when it is gone, does not offer the file, or the deadline passes; with
///         the reason after an abort. Nothing is left open.
class FileFetcher {
 public:
  /// Connects to the server called `name`.
  FileFetcher(const std::string& name, int peer, const PeerWait& wait);
  /// A copy, in this process, of file `file` of the peer.
  [[nodiscard]] OwnedFile fetch(std::uint64_t file);

 private:
  void connect(const std::string& name);
  /// Waits until something came or the other end has closed.
  [[nodiscard]] LocalMessage receive();
  void check_deadline(const std::string& what) const;

  int peer_;
  PeerWait wait_;
  OwnedFile socket_;
};

}  // namespace dynatrain
