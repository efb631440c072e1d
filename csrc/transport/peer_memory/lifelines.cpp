#include "transport/peer_memory/lifelines.hpp"

#include "dynatrain/base/error.hpp"

#include "transport/peer_memory/local_socket.hpp"
#include <poll.h>
#include <utility>

namespace dynatrain {

Lifelines::Lifelines() {
  try {
    const std::string name = make_socket_name();
    SocketResult listening = listen_at(name);
    if (listening.error == 0) {
      name_ = name;
      own_ = std::move(listening.socket);
    }
  } catch (const DeviceError&) {
    name_.clear();  // deaths are seen at the deadline then
  }
}

void Lifelines::hold(int peer, const std::string& name) {
  if (name.empty()) {
    return;
  }
  SocketResult connected = connect_to(name);
  if (connected.error == 0) {
    held_[peer] = std::move(connected.socket);
  }
}

bool Lifelines::has_ended(int peer) const {
  const auto held = held_.find(peer);
  if (held == held_.end()) {
    return false;
  }
  pollfd polled{.fd = held->second.get(), .events = 0, .revents = 0};
  return poll(&polled, 1, 0) == 1 && (polled.revents & (POLLHUP | POLLERR)) != 0;
}

void Lifelines::let_go() noexcept {
  const std::lock_guard lock(mutex_);
  own_.reset();
}

}  // namespace dynatrain
