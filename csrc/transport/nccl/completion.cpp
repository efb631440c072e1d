#include "transport/nccl/completion.hpp"

#include "dynatrain/base/pause.hpp"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace dynatrain {

NcclCompletion::NcclCompletion(std::shared_ptr<NcclWorld> world, Deadline deadline)
    : world_(std::move(world)), deadline_(deadline) {}

NcclCompletion::~NcclCompletion() {
  for (const Posted& posted : posted_) {
    world_->give_back(posted.event);
  }
}

void NcclCompletion::add_group(void* event, std::vector<int> peers) noexcept {
  posted_.push_back({.event = event, .peers = std::move(peers)});
}

bool NcclCompletion::done() const {
  return look() != State::kPending;
}

bool NcclCompletion::is_on_stream() const {
  return !posted_.empty() && error_ == nullptr;
}

void NcclCompletion::order_before(void* stream) {
  DYNATRAIN_CHECK(is_on_stream(), "transport: a stream cannot wait for an exchange of no message");
  world_->order_before(posted_.back().event, stream);  // the event is this completion's alone
}

bool NcclCompletion::has_left_device() const {
  try {
    return posted_.empty() || world_->is_done(posted_.back().event);
  } catch (const DeviceError& error) {
    // A device that answers so runs nothing any more.
    world_->fail_with([&] { return TransportError(error.what(), -1, -1, false); });
    return true;
  }
}

NcclCompletion::State NcclCompletion::look() const {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kPending) {
    return state_;
  }
  // Asked in this order: an abort ends kernels too, and must not look like success.
  const bool has_ended = has_left_device();
  if (error_ != nullptr || (!posted_.empty() && world_->has_failed())) {
    // A group that could not be posted to the end has no event: only the end of the abort tells.
    state_ = world_->has_let_go() ? State::kFailed : State::kPending;
  } else if (has_ended) {
    state_ = State::kGood;
  }
  return state_;
}

void NcclCompletion::wait(Deadline deadline) {
  for (Pause pause;; pause()) {
    switch (look()) {
      case State::kGood:
        return;
      case State::kFailed:
        throw_failure();
      case State::kPending:
        look_at_limits();
    }
    if (std::chrono::steady_clock::now() >= deadline && look() == State::kPending) {
      if (error_ != nullptr || world_->has_failed()) {
        throw_failure();
      }
      throw_still_pending();
    }
  }
}

void NcclCompletion::look_at_limits() noexcept {
  if (world_->has_failed()) {
    return;
  }
  try {
    world_->check_async(pending_peers());
  } catch (const std::exception& error) {
    world_->fail_because(error);
    return;
  }
  if (std::chrono::steady_clock::now() >= deadline_) {
    world_->fail_with([this] {
      const std::vector<int> peers = pending_peers();
      return TransportError(
          "transport: sends and receives on rank " + std::to_string(world_->rank()) +
              " reached their deadline\n  waiting for rank" + name_peers(peers) +
              "\n  it may be stopped, or far behind\n  the communicator is "
              "aborted; source memory is untouched\n  see the output of that rank; "
              "raise the timeout when the ranks are only slow",
          only_peer(peers),
          -1,
          true);
    });
  }
}

std::vector<int> NcclCompletion::pending_peers() const {
  const auto first = std::ranges::find_if(posted_, [this](const Posted& posted) {
    try {
      return !world_->is_done(posted.event);
    } catch (const DeviceError&) {
      return true;
    }
  });
  return first == posted_.end() ? std::vector<int>() : first->peers;
}

void NcclCompletion::throw_failure() const {
  if (error_ != nullptr) {
    std::rethrow_exception(error_);
  }
  world_->throw_if_failed();
  DYNATRAIN_CHECK(false, "transport: an exchange failed, but its communicator did not");
  std::terminate();
}

void NcclCompletion::throw_still_pending() const {
  const std::vector<int> peers = pending_peers();
  throw TransportError(
      "transport: an exchange on rank " + std::to_string(world_->rank()) + " of " +
          std::to_string(world_->size()) + " did not end before a wait for it did" +
          (peers.empty() ? "" : "\n  waiting for rank" + name_peers(peers)) +
          "\n  it is still pending, and the memory it was given is still in use\n  wait again, or "
          "abort the transport and wait for its end",
      only_peer(peers),
      -1,
      false);
}

}  // namespace dynatrain
