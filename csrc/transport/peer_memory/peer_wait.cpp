#include "transport/peer_memory/peer_wait.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <new>

namespace dynatrain {
namespace {

/// A store that counts in whole milliseconds, or looks now and then, gives up a little early. One
/// that is lost says so at once.
constexpr std::chrono::milliseconds kEarly{20};

[[noreturn]] void throw_ended(int peer) {
  throw TransportError(
      "transport: rank " + std::to_string(peer) +
          " has ended before it said where its memory lies\n  its process is gone, "
          "or its transport was aborted or closed\n  nothing of it was read; no "
          "state has changed\n  see the output of that rank",
      peer,
      -1,
      true);
}

}  // namespace

void AbortFlag::raise(std::string_view reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (!reason_.empty()) {
    return;
  }
  try {
    reason_ = reason.empty() ? "no reason was given" : reason;
  } catch (const std::bad_alloc&) {
    reason_ = "no memory";  // so short that it takes none
  }
}

void AbortFlag::check() const {
  const std::lock_guard lock(mutex_);
  if (!reason_.empty()) {
    throw TransportError("transport: this rank's transport was aborted: " + reason_, -1, -1, false);
  }
}

std::string wait_for_word(Store& store, const std::string& key, int peer, const PeerWait& wait) {
  while (true) {
    wait.aborted.check();
    // Looked at before the store: what the peer said last is heard.
    const bool had_ended = wait.lifelines != nullptr && wait.lifelines->has_ended(peer);
    const Deadline slice = std::min(wait.deadline, deadline_in(PeerWait::kSlice));
    try {
      return store.get(key, slice);
    } catch (const TransportError& error) {
      const Deadline now = std::chrono::steady_clock::now();
      const bool is_slice_over = now + kEarly >= slice;
      if (is_slice_over && had_ended) {
        throw_ended(peer);
      }
      if (is_slice_over && now < wait.deadline) {
        continue;
      }
      wait.aborted.check();
      throw TransportError(
          "transport: rank " + std::to_string(peer) + " has not said where its memory lies" +
              (is_slice_over ? " before the deadline" : "") + "\n  it may be dead or far behind: " +
              error.what() + "\n  nothing of it was read; no state has changed",
          peer,
          -1,
          true);
    }
  }
}

}  // namespace dynatrain
