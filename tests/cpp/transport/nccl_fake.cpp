#include "transport/nccl_fake.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dynatrain {
namespace {

constexpr int kBatchesPerPlan = 254;
constexpr int kDevice = 0;  ///< every rank's

/// As the CUDA runtime has it: each thread begins without a device.
thread_local int current_device = -1;

void note_device_of_thread(FakeCluster::Rank& rank, const std::string& call) {
  if (current_device != kDevice) {
    rank.off_device.push_back(call);
  }
}

}  // namespace

void FakeCluster::progress() {
  bool has_moved = true;
  while (has_moved) {
    has_moved = false;
    for (int r = 0; r < size(); ++r) {
      has_moved = advance(r) || has_moved;
    }
  }
}

bool FakeCluster::advance(int r) {
  std::deque<Item>& stream = rank(r).stream;
  if (stream.empty()) {
    return false;
  }
  Item& head = stream.front();
  if (head.kind == Item::Kind::kWait && head.event->is_pending) {
    return false;
  }
  if (head.kind == Item::Kind::kRecord) {
    head.event->is_pending = false;
  }
  for (Op& op : head.ops) {
    if (op.is_send && !op.is_done) {
      match(r, op);
    }
  }
  if (!std::ranges::all_of(head.ops, &Op::is_done)) {
    return false;
  }
  stream.pop_front();
  return true;
}

void FakeCluster::match(int r, Op& send) {
  Rank& other = rank(send.peer);
  if (other.is_dead || other.stream.empty()) {
    return;
  }
  for (Op& op : other.stream.front().ops) {
    if (!op.is_send && op.peer == r && !op.is_done) {
      if (op.size_bytes == send.size_bytes) {
        std::memcpy(op.data, send.data, static_cast<std::size_t>(send.size_bytes));
        op.is_done = true;
        send.is_done = true;
      }
      return;  // sends of a pair meet its receives in order; sizes that differ hang
    }
  }
}

void FakeCluster::kill(int r) {
  rank(r).is_dead = true;
  rank(r).stream.clear();
}

bool FakeCluster::have_all_joined() const {
  return std::ranges::all_of(ranks_, &Rank::has_joined);
}

bool FakeCluster::waits_for_dead(int r) {
  return std::ranges::any_of(rank(r).stream, [this](const Item& item) {
    return std::ranges::any_of(
        item.ops, [this](const Op& op) { return !op.is_done && rank(op.peer).is_dead; });
  });
}

std::deque<FakeCluster::Item> FakeCluster::plans(int r, const std::vector<Op>& ops) const {
  std::vector<Op> left = ops;
  std::deque<Item> items(1);
  int num_batches = 0;
  const auto take = [&](bool is_send, int peer) {
    const auto found = std::ranges::find_if(
        left, [&](const Op& op) { return op.is_send == is_send && op.peer == peer; });
    if (found == left.end()) {
      return;
    }
    items.back().ops.push_back(*found);
    left.erase(found);
  };
  while (!left.empty()) {
    for (int round = 0; round < size(); ++round) {
      if (num_batches + num_channels > kBatchesPerPlan) {
        items.emplace_back();
        num_batches = 0;
        break;  // the next plan begins with the first round again, whoever has still work there
      }
      const std::size_t before = left.size();
      take(true, (r + round) % size());
      take(false, (r - round + size()) % size());
      num_batches += left.size() < before ? num_channels : 0;
    }
  }
  return items;
}

NcclResult FakeNccl::call(const std::string& name) {
  cluster_->rank(rank_).calls.push_back(name);
  note_device_of_thread(cluster_->rank(rank_), name);
  const auto found = failing.find(name);
  return found == failing.end() ? NcclResult::kSuccess : found->second;
}

NcclAnswer<NcclId> FakeNccl::get_unique_id() {
  const std::lock_guard lock(cluster_->mutex);
  NcclId id{};
  id.fill(std::byte{42});
  return {.result = call("get_unique_id"), .value = id};
}

NcclAnswer<NcclComm> FakeNccl::comm_init(const NcclInit& init) {
  const std::lock_guard lock(cluster_->mutex);
  const NcclResult result = call("comm_init");
  FakeCluster::Rank& rank = cluster_->rank(rank_);
  rank.has_joined = init.id[0] == std::byte{42};
  return {.result = result == NcclResult::kSuccess ? NcclResult::kInProgress : result,
          .value = &rank};
}

NcclResult FakeNccl::async_error(NcclComm /*comm*/) {
  const std::lock_guard lock(cluster_->mutex);
  const auto found = failing.find("async_error");
  if (found != failing.end()) {
    return found->second;
  }
  if (!cluster_->have_all_joined()) {
    return NcclResult::kInProgress;
  }
  FakeCluster::Rank& rank = cluster_->rank(rank_);
  if (!rank.not_issued.empty() && --rank.polls_left >= 0) {
    return NcclResult::kInProgress;
  }
  std::ranges::move(rank.not_issued, std::back_inserter(rank.stream));
  rank.not_issued.clear();
  cluster_->progress();
  return cluster_->waits_for_dead(rank_) ? NcclResult::kRemoteError : NcclResult::kSuccess;
}

std::string FakeNccl::describe(NcclResult result, NcclComm /*comm*/) {
  return "the fake's result " + std::to_string(static_cast<int>(result));
}

void FakeNccl::expect_in_group(bool is_inside, const std::string& name) {
  FakeCluster::Rank& rank = cluster_->rank(rank_);
  if (rank.is_in_group != is_inside) {
    rank.faults.push_back(name + (is_inside ? " outside of a group" : " within a group"));
  }
}

NcclResult FakeNccl::group_start() {
  const std::lock_guard lock(cluster_->mutex);
  expect_in_group(false, "group_start");
  cluster_->rank(rank_).is_in_group = true;
  cluster_->rank(rank_).group.clear();
  return call("group_start");
}

NcclResult FakeNccl::group_end() {
  const std::lock_guard lock(cluster_->mutex);
  expect_in_group(true, "group_end");
  FakeCluster::Rank& rank = cluster_->rank(rank_);
  rank.is_in_group = false;
  rank.not_issued = cluster_->plans(rank_, rank.group);
  rank.groups.push_back(std::exchange(rank.group, {}));
  rank.polls_left = cluster_->num_polls_per_group;
  const NcclResult result = call("group_end");
  return result == NcclResult::kSuccess ? NcclResult::kInProgress : result;
}

NcclResult FakeNccl::send(
    const std::byte* data, std::int64_t size_bytes, int peer, NcclComm /*comm*/, void* /*stream*/) {
  const std::lock_guard lock(cluster_->mutex);
  expect_in_group(true, "send");
  cluster_->rank(rank_).group.push_back({.is_send = true,
                                         .peer = peer,
                                         .data = const_cast<std::byte*>(data),
                                         .size_bytes = size_bytes});
  return call("send");
}

NcclResult FakeNccl::recv(
    std::byte* data, std::int64_t size_bytes, int peer, NcclComm /*comm*/, void* /*stream*/) {
  const std::lock_guard lock(cluster_->mutex);
  expect_in_group(true, "recv");
  cluster_->rank(rank_).group.push_back(
      {.is_send = false, .peer = peer, .data = data, .size_bytes = size_bytes});
  return call("recv");
}

NcclAnswer<std::byte*> FakeNccl::mem_alloc(std::int64_t size_bytes) {
  const std::lock_guard lock(cluster_->mutex);
  const NcclResult result = call("mem_alloc");
  if (result != NcclResult::kSuccess) {
    return {.result = result};
  }
  // As NCCL leaves it: nobody may count on zeroes.
  std::vector<std::byte> bytes(static_cast<std::size_t>(size_bytes), std::byte{0xa5});
  std::byte* const data = bytes.data();
  memory.emplace(data, std::move(bytes));
  return {.result = result, .value = data};
}

NcclResult FakeNccl::mem_free(std::byte* data) {
  const std::lock_guard lock(cluster_->mutex);
  if (registrations.contains(data)) {
    cluster_->rank(rank_).faults.emplace_back("registered memory was freed");
  }
  if (memory.erase(data) != 1) {
    cluster_->rank(rank_).faults.emplace_back("memory was freed that is not there");
  }
  return call("mem_free");
}

NcclAnswer<void*> FakeNccl::comm_register(NcclComm /*comm*/,
                                          std::byte* data,
                                          std::int64_t /*size_bytes*/) {
  const std::lock_guard lock(cluster_->mutex);
  const NcclResult result = call("comm_register");
  if (result != NcclResult::kSuccess || declines_to_register) {
    return {.result = result};
  }
  registrations.insert(data);
  return {.result = result, .value = data};
}

NcclResult FakeNccl::comm_deregister(NcclComm comm, void* handle) {
  const std::lock_guard lock(cluster_->mutex);
  if (comm == nullptr || registrations.erase(handle) != 1) {
    cluster_->rank(rank_).faults.emplace_back("a handle was deregistered that is not there");
  }
  return call("comm_deregister");
}

NcclResult FakeNccl::comm_finalize(NcclComm /*comm*/) {
  const std::lock_guard lock(cluster_->mutex);
  return call("comm_finalize");
}

NcclResult FakeNccl::comm_destroy(NcclComm /*comm*/) {
  const std::lock_guard lock(cluster_->mutex);
  return call("comm_destroy");
}

NcclResult FakeNccl::comm_abort(NcclComm /*comm*/) {
  if (while_aborting) {
    while_aborting();
  }
  const std::lock_guard lock(cluster_->mutex);
  std::erase_if(cluster_->rank(rank_).stream,
                [](const auto& item) { return item.kind == FakeCluster::Item::Kind::kKernel; });
  cluster_->rank(rank_).not_issued.clear();
  registrations.clear();
  const NcclResult result = call("comm_abort");
  cluster_->progress();
  return result;
}

int FakeDevice::set_device(int device) {
  return std::exchange(current_device, device);
}

void FakeDevice::note_device(const std::string& name) {
  note_device_of_thread(cluster_->rank(rank_), name);
}

void* FakeDevice::create_stream() {
  return &cluster_->rank(rank_).stream;
}

void FakeDevice::destroy_stream(void* /*stream*/) {}

void* FakeDevice::create_event() {
  const std::lock_guard lock(cluster_->mutex);
  note_device("create_event");
  auto* const event = new FakeEvent();  // what may throw comes first
  ++num_events;
  return event;
}

void FakeDevice::destroy_event(void* event) {
  const std::lock_guard lock(cluster_->mutex);
  note_device("destroy_event");
  --num_events;
  std::erase_if(cluster_->rank(rank_).stream,
                [event](const auto& item) { return item.event == event; });
  delete static_cast<FakeEvent*>(event);
}

void FakeDevice::record(void* event, void* /*stream*/) {
  static_cast<FakeEvent*>(event)->is_pending = true;
  push({.kind = FakeCluster::Item::Kind::kRecord,
        .ops = {},
        .event = static_cast<FakeEvent*>(event)});
}

bool FakeDevice::is_done(void* event) {
  const std::lock_guard lock(cluster_->mutex);
  note_device("is_done");
  if (is_lost) {
    throw DeviceError("the device is lost");
  }
  cluster_->progress();
  return !static_cast<FakeEvent*>(event)->is_pending;
}

void FakeDevice::stream_wait(void* /*stream*/, void* event) {
  push(
      {.kind = FakeCluster::Item::Kind::kWait, .ops = {}, .event = static_cast<FakeEvent*>(event)});
}

bool FakeDevice::zero(std::byte* memory, std::int64_t size_bytes, Deadline /*deadline*/) {
  const std::lock_guard lock(cluster_->mutex);
  note_device("zero");
  std::memset(memory, 0, static_cast<std::size_t>(size_bytes));
  return !hangs;
}

bool FakeDevice::is_host_memory(const void* data) {
  const std::lock_guard lock(cluster_->mutex);
  note_device("is_host_memory");
  return std::ranges::find(host_memory, data) != host_memory.end();
}

void FakeDevice::push(FakeCluster::Item item) {
  const std::lock_guard lock(cluster_->mutex);
  note_device("record or stream_wait");
  FakeCluster::Rank& rank = cluster_->rank(rank_);
  rank.stream.push_back(std::move(item));
  rank.longest_stream = std::max(rank.longest_stream, rank.stream.size());
  cluster_->progress();
}

}  // namespace dynatrain
