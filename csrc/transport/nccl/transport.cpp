#include "transport/nccl/transport.hpp"

#include "transport/nccl/message_memory.hpp"
#include <algorithm>
#include <bit>
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
                      std::to_string(size) +
                      "\n  expected a rank from 0 on, below the number of ranks\n  no communicator "
                      "was made\n  give the rank in the group that the communicator is for");
  }
  if (options.max_ops_per_group < 1 || options.max_channels < 1 || options.piece_bytes < 1) {
    throw LayoutError(
        "transport: an option of NCCL is below 1\n  max_ops_per_group=" +
        std::to_string(options.max_ops_per_group) +
        " max_channels=" + std::to_string(options.max_channels) +
        " piece_bytes=" + std::to_string(options.piece_bytes) +
        "\n  no communicator was made\n  give each at least 1, or leave it at its default");
  }
  // Sends and receives may fall into rounds of their own, each of which takes a batch per channel.
  // NCCL rounds the channels of a peer up to a power of two.
  const auto num_channels = std::bit_ceil(static_cast<unsigned>(options.max_channels));
  const std::int64_t num_batches = std::int64_t{2} * options.max_ops_per_group * num_channels;
  if (num_batches > kMaxBatchesPerPlan) {
    throw LayoutError(
        "transport: " + std::to_string(options.max_ops_per_group) + " operations a group over " +
        std::to_string(num_channels) + " channels may take " + std::to_string(num_batches) +
        " batches, a kernel plan of NCCL holds " + std::to_string(kMaxBatchesPerPlan) +
        "\n  no communicator was made: NCCL could cut a group differently on two "
        "ranks, which then wait for each other\n  lower max_ops_per_group or "
        "max_channels");
  }
}

/// Asked before the ranks meet, so that none waits for one that cannot take part.
void check_registration(const NcclLibraries& libraries, const NcclOptions& options) {
  const std::string problem =
      options.register_staging ? libraries.nccl->registration_problem() : std::string();
  if (!problem.empty()) {
    throw DeviceError("transport: NCCL cannot register staging: " + problem +
                      "\n  no communicator was made\n  leave register_staging off");
  }
}

}  // namespace

NcclTransport::NcclTransport(std::shared_ptr<NcclWorld> world) : world_(std::move(world)) {}

NcclTransport::~NcclTransport() {
  world_->close();
}

std::unique_ptr<CopierMemory> NcclTransport::allocate_messages(std::int64_t size_bytes) {
  if (!world_->options().register_staging || size_bytes == 0) {
    return nullptr;
  }
  return std::make_unique<MessageMemory>(world_, size_bytes);
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
    world_->fail_because(error);
  }
  return {.sent = token, .received = token};
}

void NcclTransport::post(const Exchange& step,
                         std::span<const Token> after,
                         Deadline deadline,
                         NcclCompletion& completion) {
  const DeviceScope scope(world_->device(), world_->options().device);
  world_->throw_if_failed();
  check_messages(step.sends);
  check_messages(step.receives);
  order(after, deadline);
  const GroupRule rule{.rank = world_->rank(),
                       .size = world_->size(),
                       .max_ops_per_group = world_->options().max_ops_per_group,
                       .piece_bytes = world_->options().piece_bytes};
  const std::vector<OpGroup> groups = cut_groups(rule, step);
  completion.reserve(groups.size());
  for (const OpGroup& group : groups) {
    std::vector<int> peers = group.peers();
    completion.add_group(world_->post(group, deadline), std::move(peers));
  }
}

void NcclTransport::check_messages(std::span<const WireMessage> messages) const {
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
    if (message.size_bytes > 0 && world_->device().is_host_memory(message.data)) {
      throw TransportError("transport: a message of " + std::to_string(message.size_bytes) +
                               " bytes between ranks " + std::to_string(rank()) + " and " +
                               std::to_string(message.peer) +
                               " lies in host memory, which NCCL cannot reach"
                               "\n  nothing of this exchange was sent\n  take its memory where "
                               "message_place() says, or move host tensors over a host transport",
                           message.peer,
                           -1,
                           false);
    }
  }
}

void NcclTransport::order(std::span<const Token> after, Deadline deadline) {
  for (const Token& token : after) {
    DeviceCompletion* const on_device = token.done() ? nullptr : on_stream(token);
    if (on_device != nullptr) {
      on_device->order_before(world_->stream());
    } else {
      token.wait(deadline);
    }
  }
}

void NcclTransport::abort(std::string_view reason) noexcept {
  world_->fail_with([&] {
    return TransportError("transport: rank " + std::to_string(rank()) +
                              " aborted its NCCL communicator: " + std::string(reason),
                          -1,
                          -1,
                          true);
  });
}

std::unique_ptr<NcclTransport> connect_nccl(const NcclLibraries& libraries,
                                            const NcclInit& place,
                                            const NcclOptions& options,
                                            Store& store,
                                            Deadline deadline) {
  check_options(place.rank, place.size, options);
  check_registration(libraries, options);
  auto world = std::make_shared<NcclWorld>(libraries, place.rank, place.size, options);
  world->connect(store, deadline);
  return std::make_unique<NcclTransport>(std::move(world));
}

}  // namespace dynatrain
