#include "transport/nccl/world.hpp"

#include "dynatrain/base/pause.hpp"

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <utility>

namespace dynatrain {
namespace {

bool is_good(NcclResult result) {
  return result == NcclResult::kSuccess || result == NcclResult::kInProgress;
}

}  // namespace

std::string name_peers(const std::vector<int>& peers) {
  std::string text = peers.size() > 1 ? " one of" : "";
  for (std::size_t i = 0; i < peers.size(); ++i) {
    text += (i > 0 ? ", " : " ") + std::to_string(peers[i]);
  }
  return text;
}

int only_peer(const std::vector<int>& peers) {
  return peers.size() == 1 ? peers.front() : -1;
}

NcclWorld::NcclWorld(NcclLibraries libraries, int rank, int size, const NcclOptions& options)
    : libraries_(std::move(libraries)),
      rank_(rank),
      size_(size),
      options_(options),
      stream_(std::make_shared<GroupStream>(libraries_.device, options_.device)) {}

NcclWorld::~NcclWorld() {
  close();
  try {
    const DeviceScope scope(device(), options_.device);
    for (const UnderWay& group : under_way_) {
      if (group.event != nullptr) {
        device().destroy_event(group.event);
      }
    }
    for (void* event : free_events_) {
      device().destroy_event(event);
    }
  } catch (...) {  // NOLINT(bugprone-empty-catch): the device is gone, and all this with it
  }
}

void NcclWorld::order_before(void* event, void* stream) {
  const DeviceScope scope(device(), options_.device);
  device().stream_wait(stream, event);
}

void* NcclWorld::post(const OpGroup& group, Deadline deadline) {
  const DeviceScope scope(device(), options_.device);
  UnderWay& place = under_way_[num_groups_ % kMaxGroupsUnderWay];
  std::vector<int> peers = group.peers();
  wait_for_room(place, deadline);
  issue(group);
  // Only now is the kernel on the stream, and an event recorded behind it.
  wait_until_ready("a group of sends and receives", peers, deadline);
  if (place.event == nullptr) {
    place.event = device().create_event();
  }
  void* const event = take_event();
  try {
    device().record(event, stream_->stream());
    device().record(place.event, stream_->stream());
  } catch (...) {
    give_back(event);
    throw;
  }
  place.peers = std::move(peers);
  ++num_groups_;
  return event;
}

void* NcclWorld::take_event() {
  const std::lock_guard lock(mutex_);
  if (free_events_.empty()) {
    free_events_.reserve(num_given_out_ + 1);  // for give_back(), which may not throw
    void* const event = device().create_event();
    ++num_given_out_;
    return event;
  }
  void* const event = free_events_.back();
  free_events_.pop_back();
  return event;
}

void NcclWorld::wait_for_room(const UnderWay& oldest, Deadline deadline) {
  for (Pause pause; oldest.event != nullptr && !device().is_done(oldest.event); pause()) {
    throw_if_failed();
    check_async(oldest.peers);
    if (std::chrono::steady_clock::now() >= deadline) {
      throw_late("a group of sends and receives", oldest.peers);
    }
  }
}

void NcclWorld::issue(const OpGroup& group) {
  const std::lock_guard lock(mutex_);
  throw_if_failed_locked();
  const std::vector<int> peers = group.peers();
  check(libraries_.nccl->group_start(), "ncclGroupStart", peers, comm_);
  const NcclResult result = issue_ops(group, comm_);
  // A group that was begun is ended in any case, else the thread would stay inside it.
  const NcclResult end = libraries_.nccl->group_end();
  check(result, "ncclSend or ncclRecv", peers, comm_);
  check(end, "ncclGroupEnd", peers, comm_);
}

NcclResult NcclWorld::issue_ops(const OpGroup& group, NcclComm comm) {
  NcclApi& nccl = *libraries_.nccl;
  for (const GroupOp& op : group.ops) {
    const NcclResult result =
        op.is_send ? nccl.send(op.data, op.size_bytes, op.peer, comm, stream_->stream())
                   : nccl.recv(op.data, op.size_bytes, op.peer, comm, stream_->stream());
    if (!is_good(result)) {
      return result;
    }
  }
  return NcclResult::kSuccess;
}

void NcclWorld::wait_until_ready(const char* what,
                                 const std::vector<int>& peers,
                                 Deadline deadline) {
  Pause pause;
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      throw_if_failed_locked();
      const NcclResult result = libraries_.nccl->async_error(comm_);
      check(result, what, peers, comm_);
      if (result == NcclResult::kSuccess) {
        return;
      }
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      throw_late(what, peers);
    }
    pause();
  }
}

void NcclWorld::throw_late(const char* what, const std::vector<int>& peers) const {
  throw TransportError(
      "transport: " + std::string(what) + " on rank " + std::to_string(rank_) + " of " +
          std::to_string(size_) + " reached its deadline" +
          (peers.empty() ? "" : "\n  waiting for rank" + name_peers(peers)) +
          "\n  a rank has not come, or NCCL cannot reach it\n  the communicator is "
          "of no further use; source memory is untouched\n  see the output of the other "
          "ranks; NCCL_DEBUG=INFO shows how far it got",
      only_peer(peers),
      -1,
      true);
}

void NcclWorld::check(NcclResult result,
                      const char* what,
                      const std::vector<int>& peers,
                      NcclComm comm) {
  if (!is_good(result)) {
    throw TransportError("transport: " + std::string(what) + " failed on rank " +
                             std::to_string(rank_) +
                             (peers.empty() ? "" : "\n  talking to rank" + name_peers(peers)) +
                             "\n  NCCL says: " + libraries_.nccl->describe(result, comm) +
                             "\n  the communicator is aborted; NCCL_DEBUG=WARN says more",
                         only_peer(peers),
                         -1,
                         true);
  }
}

void NcclWorld::check_async(const std::vector<int>& peers) {
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) {
    check(libraries_.nccl->async_error(comm_), "a group of sends and receives", peers, comm_);
  }
}

void* NcclWorld::register_memory(std::byte* memory, std::int64_t size_bytes) {
  const DeviceScope scope(device(), options_.device);
  const std::lock_guard lock(mutex_);
  throw_if_failed_locked();
  registrations_.reserve(registrations_.size() + 1);  // a handle must have its place
  const NcclAnswer<void*> answer = nccl().comm_register(comm_, memory, size_bytes);
  if (answer.result != NcclResult::kSuccess || answer.value == nullptr) {
    const std::string reason = answer.result == NcclResult::kSuccess
                                   ? "it declines (NCCL_LOCAL_REGISTER=0, or P2P by memcpy)"
                                   : nccl().describe(answer.result, comm_);
    throw DeviceError("transport: ncclCommRegister refused " + std::to_string(size_bytes) +
                      " bytes of staging on rank " + std::to_string(rank_) + "\n  NCCL says: " +
                      reason + "\n  nothing was sent\n  leave register_staging off");
  }
  registrations_.push_back(answer.value);
  return answer.value;
}

void NcclWorld::deregister(void* handle) noexcept {
  std::optional<DeviceScope> scope;
  enter(scope, device(), options_.device);
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(registrations_, handle);
  if (found != registrations_.end()) {
    registrations_.erase(found);
    // A refusal changes nothing: NCCL has forgotten the handle, or never will.
    static_cast<void>(nccl().comm_deregister(comm_, handle));
  }
}

bool NcclWorld::is_done(void* event) {
  const DeviceScope scope(device(), options_.device);
  return device().is_done(event);
}

void NcclWorld::give_back(void* event) noexcept {
  const std::lock_guard lock(mutex_);
  free_events_.push_back(event);
}

void NcclWorld::fail(const TransportError& cause) noexcept {
  end(&cause);
}

void NcclWorld::fail_because(const std::exception& error) noexcept {
  if (const auto* const known = dynamic_cast<const TransportError*>(&error); known != nullptr) {
    fail(*known);
  } else if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    fail(no_memory_);
  } else {
    fail_with([&] { return TransportError(error.what(), -1, -1, true); });
  }
}

void NcclWorld::end(const TransportError* cause) noexcept {
  Ending ending{.libraries = libraries_,
                .device = options_.device,
                .comm = nullptr,
                .stream = stream_,
                .in_peace = cause == nullptr,
                .registrations = {},
                .timeout = options_.end_timeout};
  {
    // At once, so that whoever sees the failure does not find a communicator to abort as well.
    const std::lock_guard lock(mutex_);
    if (cause != nullptr && !failure_) {
      failure_.emplace(*cause);
    }
    ending.comm = std::exchange(comm_, nullptr);
    ending.registrations = std::exchange(registrations_, {});
    is_ending_ = is_ending_ || ending.comm != nullptr;
  }
  if (ending.comm != nullptr) {
    end_communicator(std::move(ending), ended_);
  }
}

bool NcclWorld::has_let_go() noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!has_ended_locked()) {
      return false;
    }
  }
  try {
    return is_done(stream_->after_abort());
  } catch (...) {
    return true;
  }
}

bool NcclWorld::has_failed() const {
  const std::lock_guard lock(mutex_);
  return failure_.has_value();
}

void NcclWorld::throw_if_failed() const {
  const std::lock_guard lock(mutex_);
  throw_if_failed_locked();
}

void NcclWorld::throw_if_failed_locked() const {
  if (failure_) {
    throw TransportError(*failure_);
  }
}

void NcclWorld::close() noexcept {
  if (!is_idle()) {
    fail_with([] {
      return TransportError("transport: the NCCL transport was destroyed", -1, -1, false);
    });
    return;
  }
  end(nullptr);
}

bool NcclWorld::is_idle() noexcept {
  try {
    return num_groups_ == 0 || is_done(under_way_[(num_groups_ - 1) % kMaxGroupsUnderWay].event);
  } catch (...) {
    return false;
  }
}

}  // namespace dynatrain
