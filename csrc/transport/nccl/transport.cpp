#include "transport/nccl/transport.hpp"

#include <algorithm>
#include <exception>
#include <utility>

namespace dynatrain {
namespace {

/// What a kernel plan of NCCL holds at least: 4096 bytes of kernel arguments less a 32-byte head,
/// 16 bytes for a batch (src/enqueue.cc and src/include/device.h of NCCL 2.27 to 2.30).
constexpr int kMaxBatchesPerPlan = 254;

void check_options(int rank, int size, const NcclOptions& options) {
  if (size < 1 || rank < 0 || rank >= size) {
    throw LayoutError("transport: there is no rank " + std::to_string(rank) + " of " +
                      std::to_string(size) + "\n  no communicator was made");
  }
  if (options.max_ops_per_group < 1 || options.max_channels < 1 || options.piece_bytes < 1 ||
      options.host_bytes < 1) {
    throw LayoutError("transport: a NCCL option is below 1\n  no communicator was made");
  }
  // Sends and receives may fall into rounds of their own, each of which takes a batch per channel.
  const int num_batches = 2 * options.max_ops_per_group * options.max_channels;
  if (num_batches > kMaxBatchesPerPlan) {
    throw LayoutError(
        "transport: " + std::to_string(options.max_ops_per_group) + " operations a group over " +
        std::to_string(options.max_channels) + " channels may take " + std::to_string(num_batches) +
        " batches, a kernel plan of NCCL holds " + std::to_string(kMaxBatchesPerPlan) +
        "\n  no communicator was made: NCCL could cut a group differently on two "
        "ranks, which then wait for each other\n  lower max_ops_per_group or "
        "max_channels");
  }
}

}  // namespace

NcclTransport::NcclTransport(std::shared_ptr<NcclWorld> world, std::shared_ptr<HostBounce> bounce)
    : world_(std::move(world)), bounce_(std::move(bounce)) {}

NcclTransport::~NcclTransport() {
  world_->close();
}

Token NcclTransport::submit_sends(std::span<const WireMessage> messages,
                                  std::span<const Token> after,
                                  Deadline deadline) {
  return exchange({.sends = messages, .receives = {}}, after, deadline).sent;
}

Token NcclTransport::submit_receives(std::span<const WireMessage> messages,
                                     std::span<const Token> after,
                                     Deadline deadline) {
  return exchange({.sends = {}, .receives = messages}, after, deadline).received;
}

ExchangeTokens NcclTransport::exchange(const Exchange& step,
                                       std::span<const Token> after,
                                       Deadline deadline) {
  const auto completion = std::make_shared<NcclCompletion>(world_, deadline);
  const Token token(completion);
  const std::lock_guard lock(posting_);
  try {
    post(step, after, deadline, *completion);
  } catch (const std::exception& error) {
    completion->fail(std::current_exception());
    // The peers' groups would meet later ones of this rank: there must be none.
    const auto* const known = dynamic_cast<const TransportError*>(&error);
    world_->fail(known != nullptr ? *known : TransportError(error.what(), -1, -1, true));
  }
  return {.sent = token, .received = token};
}

void NcclTransport::post(const Exchange& step,
                         std::span<const Token> after,
                         Deadline deadline,
                         NcclCompletion& completion) {
  world_->throw_if_failed();
  check_peers(step.sends);
  check_peers(step.receives);
  HostBounce::Lease lease = HostBounce::lease(bounce_);
  order(after, deadline);
  const auto is_host = [&](const WireMessage& m) {
    return world_->device().is_host_memory(m.data);
  };
  if (std::ranges::any_of(step.sends, is_host)) {
    wait_all(after, deadline);  // the bytes are read here
  }
  const Messages sends = reachable(step.sends, true, lease);
  const Messages receives = reachable(step.receives, false, lease);
  completion.use_host(std::move(lease));
  const GroupRule rule{.rank = world_->rank(),
                       .size = world_->size(),
                       .max_ops_per_group = world_->options().max_ops_per_group,
                       .piece_bytes = world_->options().piece_bytes};
  world_->begin_exchange();
  for (const OpGroup& group : cut_groups(rule, {.sends = sends, .receives = receives})) {
    completion.add_group(world_->post(group, deadline), group.peers());
  }
}

void NcclTransport::check_peers(std::span<const WireMessage> messages) const {
  for (const WireMessage& message : messages) {
    if (message.peer < 0 || message.peer >= size()) {
      throw TransportError("transport: rank " + std::to_string(rank()) +
                               " has a message for rank " + std::to_string(message.peer) +
                               ", but there are " + std::to_string(size()) +
                               " ranks\n  nothing of this exchange was sent",
                           message.peer,
                           -1,
                           false);
    }
  }
}

void NcclTransport::order(std::span<const Token> after, Deadline deadline) {
  for (const Token& token : after) {
    const auto* const on_device = dynamic_cast<const DeviceCompletion*>(token.completion().get());
    if (!token.done() && on_device != nullptr && on_device->event() != nullptr) {
      world_->wait_for_event(on_device->event());
    } else {
      token.wait(deadline);
    }
  }
}

NcclTransport::Messages NcclTransport::reachable(std::span<const WireMessage> messages,
                                                 bool is_send,
                                                 HostBounce::Lease& lease) {
  Messages found(messages.begin(), messages.end());
  for (WireMessage& message : found) {
    if (message.size_bytes > 0 && world_->device().is_host_memory(message.data)) {
      message.data = lease.stand_in(message.data, message.size_bytes, is_send);
    }
  }
  return found;
}

void NcclTransport::abort(const std::string& reason) noexcept {
  world_->fail(TransportError(
      "transport: rank " + std::to_string(rank()) + " aborted its NCCL communicator: " + reason,
      -1,
      -1,
      true));
}

std::unique_ptr<NcclTransport> connect_nccl(const NcclLibraries& libraries,
                                            const NcclInit& place,
                                            const NcclOptions& options,
                                            Store& store,
                                            Deadline deadline) {
  check_options(place.rank, place.size, options);
  auto world = std::make_shared<NcclWorld>(libraries, place.rank, place.size, options);
  const DeviceScope scope(*libraries.device, options.device);
  auto bounce = std::make_shared<HostBounce>(libraries.device, options.host_bytes);
  world->connect(store, deadline);
  return std::make_unique<NcclTransport>(std::move(world), std::move(bounce));
}

}  // namespace dynatrain
