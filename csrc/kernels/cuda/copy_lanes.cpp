#include "kernels/cuda/copy_lanes.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/pause.hpp"

#include "kernels/cuda/device_error.hpp"
#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace dynatrain {
namespace {

/// What a device may use for ever: it did not end in time. Reachable, so that no tool takes it for
/// forgotten.
void never_free(std::vector<std::shared_ptr<LaneBatch>> batches) {
  static std::mutex mutex;
  static auto& kept = *new std::vector<std::shared_ptr<LaneBatch>>();
  const std::lock_guard lock(mutex);
  std::move(batches.begin(), batches.end(), std::back_inserter(kept));
}

/// Adds the sums that came back with the table to where the caller wants them.
void add_fetched_sums(const LaneBatch& batch) {
  const std::byte* memory = batch.memory->host();
  for (std::int64_t group = 0; group < batch.parts.size.num_groups; ++group) {
    std::uint64_t sum = 0;
    std::uint32_t slot = 0;
    std::memcpy(&sum, memory + batch.parts.size.layout.sums_at + group * 8, sizeof(sum));
    std::memcpy(&slot, memory + batch.parts.size.layout.slots_at + group * 4, sizeof(slot));
    batch.parts.host_sums[slot] += sum;
  }
}

}  // namespace

CopyLanes::CopyLanes(std::unique_ptr<StreamDevice> device)
    : device_(std::move(device)),
      tables_(std::make_shared<TablePool>(*device_)),
      lanes_(device_->num_streams()) {
  DYNATRAIN_CHECK(lanes_.size() >= 2, "kernels: a stream copier needs at least two streams");
}

std::shared_ptr<TableMemory> CopyLanes::take_memory(std::int64_t size_bytes) {
  {
    const std::lock_guard lock(mutex_);
    for (const Lane& lane : lanes_) {
      // A copy of the pointer: finishing takes batches out of the lane.
      while (!lane.empty() && has_ended_locked(*std::shared_ptr<LaneBatch>(lane.front()))) {
      }
    }
  }
  return tables_->take(size_bytes);
}

bool CopyLanes::take(PreparedTable& table) {
  const std::lock_guard lock(mutex_);
  return !std::exchange(table.is_under_way, true);
}

std::size_t CopyLanes::choose_lane(std::span<const Token> pending) {
  if (pending.empty()) {
    return 0;
  }
  const auto* before = dynamic_cast<const BatchCompletion*>(pending.front().completion().get());
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
    const bool is_directly_behind = pending.size() == 1 && before != nullptr &&
                                    !lanes_[lane].empty() &&
                                    lanes_[lane].back().get() == before->batch();
    if (is_directly_behind) {
      return lane;
    }
  }
  for (std::size_t lane = 1; lane < lanes_.size(); ++lane) {
    if (is_empty_locked(lane)) {
      return lane;
    }
  }
  return lanes_.size();
}

bool CopyLanes::launch(const std::shared_ptr<LaneBatch>& batch, std::span<const Token> pending) {
  if (!batch->has_work() && pending.empty()) {
    end_empty(*batch);
    return true;
  }
  const std::lock_guard one_launch(launch_mutex_);
  std::size_t lane = 0;
  {
    const std::lock_guard lock(mutex_);
    lane = choose_lane(pending);
  }
  if (lane == lanes_.size()) {
    return false;
  }
  try {
    for (const Token& token : pending) {
      dynamic_cast<DeviceCompletion&>(*token.completion()).order_before(device_->stream(lane));
    }
    const std::lock_guard lock(mutex_);
    batch->lane = lane;
    put_on_stream(*batch);
    lanes_[lane].push_back(batch);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    batch->lane = lane;
    fail_on_stream(batch, std::current_exception());
  }
  return true;
}

void CopyLanes::fail_on_stream(const std::shared_ptr<LaneBatch>& batch, std::exception_ptr error) {
  batch->error = std::move(error);
  try {
    // A part of it may run: its memory is free once the stream has passed this place.
    batch->end = take_event();
    batch->end->record(device_->stream(batch->lane));
    batch->state = LaneBatch::State::kOnStream;
    lanes_[batch->lane].push_back(batch);
  } catch (...) {  // the device is lost, and runs nothing any more
    batch->state = LaneBatch::State::kEnded;
    given_up_.push_back(batch);
  }
}

void CopyLanes::end_empty(LaneBatch& batch) {
  const std::lock_guard lock(mutex_);
  if (batch.times != nullptr) {
    batch.times->begin = batch.times->end = std::chrono::steady_clock::now();
  }
  give_back_table(batch);
  batch.state = LaneBatch::State::kEnded;
}

void CopyLanes::put_on_stream(LaneBatch& batch) {
  void* stream = device_->stream(batch.lane);
  if (batch.times != nullptr) {
    batch.begin = take_event();
    batch.begin->record(stream);
  }
  if (batch.has_work()) {
    device_->launch({.zeroed = batch.zeroed,
                     .read_back = batch.parts.device_reads,
                     .size = &batch.parts.size,
                     .memory = batch.memory.get(),
                     .is_uploaded = batch.prepared != nullptr,
                     .sums = batch.parts.device_sums,
                     .stream = stream});
  }
  batch.end = take_event();
  batch.end->record(stream);
  batch.state = LaneBatch::State::kOnStream;
}

std::unique_ptr<DeviceEvent> CopyLanes::take_event() {
  if (free_events_.empty()) {
    return device_->make_event();
  }
  std::unique_ptr<DeviceEvent> event = std::move(free_events_.back());
  free_events_.pop_back();
  return event;
}

void CopyLanes::fail(LaneBatch& batch, std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  batch.error = std::move(error);
  batch.state = LaneBatch::State::kEnded;
  give_back_table(batch);
}

void CopyLanes::give_back_table(LaneBatch& batch) {
  batch.memory.reset();
  if (batch.prepared != nullptr) {
    std::exchange(batch.prepared, nullptr)->is_under_way = false;
  }
}

bool CopyLanes::has_ended(LaneBatch& batch) {
  const std::lock_guard lock(mutex_);
  return has_ended_locked(batch);
}

bool CopyLanes::has_ended_locked(LaneBatch& batch) {
  if (batch.state != LaneBatch::State::kOnStream) {
    return batch.state == LaneBatch::State::kEnded;
  }
  Lane& lane = lanes_[batch.lane];
  try {
    if (!batch.end->has_passed()) {
      return false;
    }
    // Whoever was on the stream before has passed too, whether somebody asks for it or not.
    for (bool is_found = false; !is_found;) {
      const std::shared_ptr<LaneBatch> first = lane.front();
      is_found = first.get() == &batch;
      finish(*first);
      lane.pop_front();
    }
  } catch (...) {
    give_up(batch, std::current_exception());
  }
  return true;
}

void CopyLanes::finish(LaneBatch& batch) {
  if (batch.error == nullptr) {
    fetch_results(batch);
  }
  if (batch.begin != nullptr) {
    free_events_.push_back(std::move(batch.begin));
  }
  free_events_.push_back(std::move(batch.end));
  give_back_table(batch);
  batch.state = LaneBatch::State::kEnded;
}

void CopyLanes::fetch_results(const LaneBatch& batch) {
  if (batch.times != nullptr) {
    batch.times->end = batch.end->when();
    batch.times->stream = static_cast<int>(batch.lane);
    batch.times->begin = batch.parts.size.num_units > 0 ? batch.begin->when() : batch.times->end;
  }
  if (batch.parts.host_sums != nullptr) {
    add_fetched_sums(batch);
  }
  for (const ReadBack& read : batch.parts.host_reads) {
    std::memcpy(read.host, read.src, static_cast<std::size_t>(read.size_bytes));
  }
}

void CopyLanes::give_up(LaneBatch& batch, const std::exception_ptr& error) {
  Lane& lane = lanes_[batch.lane];
  const auto found = std::find_if(
      lane.begin(), lane.end(), [&batch](const auto& other) { return other.get() == &batch; });
  batch.error = error;
  batch.state = LaneBatch::State::kEnded;
  if (found != lane.end()) {
    given_up_.push_back(std::move(*found));
    lane.erase(found);
  }
}

bool CopyLanes::is_on_stream(const LaneBatch& batch) {
  const std::lock_guard lock(mutex_);
  return batch.state != LaneBatch::State::kWaiting && batch.error == nullptr;
}

void CopyLanes::order_before(LaneBatch& batch, void* stream) {
  const std::lock_guard lock(mutex_);
  DYNATRAIN_CHECK(batch.state != LaneBatch::State::kWaiting,
                  "kernels: a stream cannot wait for a batch that is not on one");
  if (batch.state == LaneBatch::State::kOnStream) {
    batch.end->hold(stream);
  }
}

void CopyLanes::check(const LaneBatch& batch) {
  std::exception_ptr error;
  {
    const std::lock_guard lock(mutex_);
    error = batch.error;
  }
  if (error != nullptr) {
    std::rethrow_exception(error);
  }
}

void CopyLanes::drain(Deadline deadline) {
  const auto error = std::make_exception_ptr(
      DeviceError("kernels: a batch did not end on its device before the copier's own deadline"
                  "\n  it may still be running, and the memory it was given is still in use"
                  "\n  find out what its stream waits for; the process should not go on"));
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
    for (Pause pause; !is_empty(lane); pause()) {
      if (std::chrono::steady_clock::now() >= deadline) {
        const std::lock_guard lock(mutex_);
        while (!lanes_[lane].empty()) {
          give_up(*std::shared_ptr<LaneBatch>(lanes_[lane].back()), error);
        }
        never_free(std::exchange(given_up_, {}));
      }
    }
  }
}

bool CopyLanes::is_empty(std::size_t lane) {
  const std::lock_guard lock(mutex_);
  return is_empty_locked(lane);
}

bool CopyLanes::is_empty_locked(std::size_t lane) {
  return lanes_[lane].empty() ||
         (has_ended_locked(*std::shared_ptr<LaneBatch>(lanes_[lane].back())) &&
          lanes_[lane].empty());
}

void BatchCompletion::wait(Deadline deadline) {
  for (Pause pause; !done(); pause()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      throw_late("a batch of copies");
    }
  }
  lanes_->check(*batch_);
}

}  // namespace dynatrain
