#pragma once

// NCCL between ranks that are threads, over the CUDA runtime of threads: a group is one job of a
// stream, which posts its sends, takes what it is to receive, and ends when its peers have taken
// theirs. Nothing is buffered.

#include <cuda_runtime.h>

#include "transport/nccl/device_api.hpp"
#include "transport/nccl/nccl_api.hpp"
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {

/// Where the ranks' groups meet. An abort ends the groups of its rank alone; peers wait on.
class HostMeeting {
 public:
  struct Parcel {
    const std::byte* data = nullptr;
    std::int64_t size_bytes = 0;
    bool is_being_taken = false;
    bool is_taken = false;
  };

  void offer(int from, int to, const std::shared_ptr<Parcel>& parcel) {
    const std::lock_guard lock(mutex_);
    offers_[{from, to}].push_back(parcel);
    changed_.notify_all();
  }
  /// Copies what `from` offers next, unless `to` has given up.
  void take(int from, int to, std::byte* data, std::int64_t size_bytes) {
    std::shared_ptr<Parcel> parcel;
    {
      std::unique_lock lock(mutex_);
      std::deque<std::shared_ptr<Parcel>>& offers = offers_[{from, to}];
      changed_.wait(lock, [&] { return has_given_up(to) || !offers.empty(); });
      if (has_given_up(to)) {
        return;
      }
      parcel = offers.front();
      offers.pop_front();
      parcel->is_being_taken = true;
    }
    std::memcpy(data, parcel->data, static_cast<std::size_t>(size_bytes));
    const std::lock_guard lock(mutex_);
    parcel->is_taken = true;
    changed_.notify_all();
  }
  /// Ends as well when `from` gives up before anybody takes it.
  void wait_until_taken(int from, int to, const std::shared_ptr<Parcel>& parcel) {
    std::unique_lock lock(mutex_);
    changed_.wait(
        lock, [&] { return parcel->is_taken || (has_given_up(from) && !parcel->is_being_taken); });
    std::erase(offers_[{from, to}], parcel);
  }
  void give_up(int rank) {
    const std::lock_guard lock(mutex_);
    given_up_.insert(rank);
    changed_.notify_all();
  }

 private:
  [[nodiscard]] bool has_given_up(int rank) const { return given_up_.contains(rank); }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Parcel>>> offers_;
  std::set<int> given_up_;
};

class NcclOnHost final : public NcclApi {
 public:
  NcclOnHost(std::shared_ptr<HostMeeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}

  NcclAnswer<NcclId> get_unique_id() override { return {}; }
  NcclAnswer<NcclComm> comm_init(const NcclInit& /*init*/) override { return {.value = this}; }
  NcclResult async_error(NcclComm /*comm*/) override { return NcclResult::kSuccess; }
  std::string describe(NcclResult /*result*/, NcclComm /*comm*/) override { return "on the host"; }
  NcclResult group_start() override { return NcclResult::kSuccess; }
  NcclResult send(
      const std::byte* data, std::int64_t size_bytes, int peer, NcclComm, void* stream) override {
    const HostMeeting::Parcel parcel{.data = data, .size_bytes = size_bytes};
    group_->sends.push_back(
        {.peer = peer, .parcel = std::make_shared<HostMeeting::Parcel>(parcel)});
    stream_ = stream;
    return NcclResult::kSuccess;
  }
  NcclResult recv(
      std::byte* data, std::int64_t size_bytes, int peer, NcclComm, void* stream) override {
    group_->receives.push_back({.peer = peer, .data = data, .size_bytes = size_bytes});
    stream_ = stream;
    return NcclResult::kSuccess;
  }
  NcclResult group_end() override {
    const auto group = std::exchange(group_, std::make_shared<Group>());
    cuda_on_host::enqueue(stream_, [meeting = meeting_, rank = rank_, group] {
      for (const Send& send : group->sends) {
        meeting->offer(rank, send.peer, send.parcel);
      }
      for (const Receive& receive : group->receives) {
        meeting->take(receive.peer, rank, receive.data, receive.size_bytes);
      }
      for (const Send& send : group->sends) {
        meeting->wait_until_taken(rank, send.peer, send.parcel);
      }
    });
    return NcclResult::kSuccess;
  }
  [[nodiscard]] std::string registration_problem() const override { return "not on the host"; }
  NcclAnswer<std::byte*> mem_alloc(std::int64_t) override {
    return {NcclResult::kInternalError, {}};
  }
  NcclResult mem_free(std::byte*) override { return NcclResult::kInternalError; }
  NcclAnswer<void*> comm_register(NcclComm, std::byte*, std::int64_t) override {
    return {NcclResult::kInternalError, {}};
  }
  NcclResult comm_deregister(NcclComm, void*) override { return NcclResult::kInternalError; }
  NcclResult comm_finalize(NcclComm) override { return NcclResult::kSuccess; }
  NcclResult comm_destroy(NcclComm) override { return NcclResult::kSuccess; }
  NcclResult comm_abort(NcclComm) override {
    meeting_->give_up(rank_);
    return NcclResult::kSuccess;
  }

 private:
  struct Send {
    int peer = 0;
    std::shared_ptr<HostMeeting::Parcel> parcel;
  };
  struct Receive {
    int peer = 0;
    std::byte* data = nullptr;
    std::int64_t size_bytes = 0;
  };
  struct Group {
    std::vector<Send> sends;
    std::vector<Receive> receives;
  };

  std::shared_ptr<HostMeeting> meeting_;
  int rank_;
  std::shared_ptr<Group> group_ = std::make_shared<Group>();
  void* stream_ = nullptr;
};

/// The transport's calls of the runtime.
class CudaOnHost final : public DeviceApi {
 public:
  int set_device(int device) override {
    int former = 0;
    check(cudaGetDevice(&former));
    check(cudaSetDevice(device));
    return former;
  }
  void* create_stream() override {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
  void destroy_stream(void* stream) override { check(cudaStreamDestroy(to_stream(stream))); }
  void* create_event() override {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
  }
  void destroy_event(void* event) override { check(cudaEventDestroy(to_event(event))); }
  void record(void* event, void* stream) override {
    check(cudaEventRecord(to_event(event), to_stream(stream)));
  }
  bool is_done(void* event) override { return cudaEventQuery(to_event(event)) == cudaSuccess; }
  void stream_wait(void* stream, void* event) override {
    check(cudaStreamWaitEvent(to_stream(stream), to_event(event), 0));
  }
  bool zero(std::byte* memory, std::int64_t size_bytes, Deadline /*deadline*/) override {
    check(cudaMemset(memory, 0, static_cast<std::size_t>(size_bytes)));
    return true;
  }
  bool is_host_memory(const void* /*data*/) override { return false; }

 private:
  static cudaStream_t to_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
  static cudaEvent_t to_event(void* event) { return static_cast<cudaEvent_t>(event); }
  static void check(cudaError_t status) {
    if (status != cudaSuccess) {
      throw std::runtime_error(cudaGetErrorString(status));
    }
  }
};

}  // namespace dynatrain
