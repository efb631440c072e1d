#pragma once

// A device without a GPU: a thread for each stream, and the kernel's body on the host. Tables are
// copied to memory of their own, as an upload does.

#include "dynatrain/base/error.hpp"

#include "kernels/cuda/stream_device.hpp"
#include "kernels/emulated_kernel.hpp"
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace dynatrain {

/// A stream: jobs one after another on a thread.
class EmulatedStream {
 public:
  EmulatedStream() : thread_([this] { work(); }) {}
  ~EmulatedStream() {
    add(nullptr);
    thread_.join();
  }
  EmulatedStream(const EmulatedStream&) = delete;
  EmulatedStream& operator=(const EmulatedStream&) = delete;

  void add(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

 private:
  void work() {
    while (true) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !jobs_.empty(); });
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      if (job == nullptr) {
        return;
      }
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::thread thread_;
};

/// What a test sets and sees of an EmulatedDevice that a copier owns.
struct EmulatedState {
  bool adds_to_host = false;  ///< the kernel reaches the caller's sums
  std::atomic<bool> launches_fail = false;
  std::atomic<bool> launches_fail_late = false;  ///< once their kernel is on the stream
  std::atomic<bool> events_fail = false;
  std::atomic<int> num_launches = 0;
  std::atomic<int> num_ended = 0;    ///< launches that touch nothing any more
  std::atomic<int> num_uploads = 0;  ///< by launches
  std::atomic<int> num_memories = 0;
  std::atomic<int> num_freed_memories = 0;
  std::atomic<int> num_events = 0;
  std::atomic<bool> is_held = false;  ///< launches wait while it is set
};

class EmulatedEvent final : public DeviceEvent {
 public:
  explicit EmulatedEvent(std::shared_ptr<EmulatedState> state) : state_(std::move(state)) {
    ++state_->num_events;
  }
  void record(void* stream) override {
    // A new place for each record: who waits for the last one is not held up by the next.
    place_ = std::make_shared<Place>();
    static_cast<EmulatedStream*>(stream)->add([place = place_] {
      place->when = std::chrono::steady_clock::now();
      place->passed.set();
    });
  }
  [[nodiscard]] bool has_passed() const override {
    if (state_->events_fail) {
      throw DeviceError("emulated: the launch before an event failed");
    }
    return place_->passed.done();
  }
  void hold(void* stream) const override {
    static_cast<EmulatedStream*>(stream)->add(
        [place = place_] { place->passed.wait(deadline_in(std::chrono::seconds(60))); });
  }
  [[nodiscard]] std::chrono::steady_clock::time_point when() const override { return place_->when; }

 private:
  struct Place {
    HostCompletion passed;
    std::chrono::steady_clock::time_point when;
  };
  std::shared_ptr<EmulatedState> state_;
  std::shared_ptr<Place> place_;
};

class EmulatedMemory final : public TableMemory {
 public:
  EmulatedMemory(std::int64_t size_bytes, std::shared_ptr<EmulatedState> state)
      : state_(std::move(state)),
        host_(static_cast<std::size_t>(size_bytes)),
        device_(static_cast<std::size_t>(size_bytes)) {}
  ~EmulatedMemory() override { ++state_->num_freed_memories; }
  EmulatedMemory(const EmulatedMemory&) = delete;
  EmulatedMemory& operator=(const EmulatedMemory&) = delete;
  [[nodiscard]] std::byte* host() const override { return host_.data(); }
  [[nodiscard]] std::byte* device() const override { return device_.data(); }
  [[nodiscard]] std::int64_t size_bytes() const override {
    return static_cast<std::int64_t>(host_.size());
  }

 private:
  std::shared_ptr<EmulatedState> state_;
  mutable std::vector<std::byte> host_;
  mutable std::vector<std::byte> device_;
};

class EmulatedStaging final : public CopierMemory {
 public:
  explicit EmulatedStaging(std::int64_t size_bytes)
      : words_(static_cast<std::size_t>(size_bytes + 7) / 8) {}
  [[nodiscard]] std::byte* data() const override {
    return reinterpret_cast<std::byte*>(words_.data());
  }

 private:
  mutable std::vector<std::uint64_t> words_;
};

class EmulatedDevice final : public StreamDevice {
 public:
  explicit EmulatedDevice(std::shared_ptr<EmulatedState> state) : state_(std::move(state)) {}

  [[nodiscard]] int num_processors() const override { return 2; }
  [[nodiscard]] std::size_t num_streams() const override { return streams_.size(); }
  [[nodiscard]] void* stream(std::size_t index) const override { return &streams_.at(index); }
  [[nodiscard]] std::unique_ptr<DeviceEvent> make_event() override {
    return std::make_unique<EmulatedEvent>(state_);
  }
  [[nodiscard]] std::unique_ptr<TableMemory> make_table_memory(std::int64_t size_bytes) override {
    ++state_->num_memories;
    return std::make_unique<EmulatedMemory>(size_bytes, state_);
  }
  void upload(const TableMemory& memory, std::int64_t size_bytes) override {
    std::memcpy(memory.device(), memory.host(), static_cast<std::size_t>(size_bytes));
  }
  [[nodiscard]] std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes,
                                                       Place /*place*/) override {
    return std::make_unique<EmulatedStaging>(size_bytes);
  }
  [[nodiscard]] bool adds_to(const std::uint64_t* /*sums*/) const override {
    return state_->adds_to_host;
  }
  void launch(const TableLaunch& launch) override {
    if (state_->launches_fail) {
      throw DeviceError("emulated: a launch failed");
    }
    ++state_->num_launches;
    static_cast<EmulatedStream*>(launch.stream)->add([state = state_, launch, size = *launch.size] {
      while (state->is_held) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
      for (const std::span<std::byte> range : launch.zeroed) {
        std::memset(range.data(), 0, range.size());
      }
      if (launch.memory != nullptr) {
        run_table(launch, size, state->num_uploads);
      }
      for (const ReadBack& read : launch.read_back) {
        std::memcpy(read.host, read.src, static_cast<std::size_t>(read.size_bytes));
      }
      ++state->num_ended;
    });
    if (state_->launches_fail_late) {
      throw DeviceError("emulated: reading back was refused");
    }
  }

 private:
  static void run_table(const TableLaunch& launch,
                        const TableSize& size,
                        std::atomic<int>& num_uploads) {
    std::byte* host = launch.memory->host();
    std::byte* device = launch.memory->device();
    const auto sum_bytes = static_cast<std::size_t>(size.num_groups) * sizeof(std::uint64_t);
    if (!launch.is_uploaded) {
      std::memcpy(device, host, static_cast<std::size_t>(size.layout.upload_bytes));
      ++num_uploads;
    } else if (launch.sums == nullptr) {
      std::memset(device + size.layout.sums_at, 0, sum_bytes);
    }
    run_blocks(view_table(size, device, launch.sums), size.sums, size.split.num_blocks);
    if (launch.sums == nullptr) {
      std::memcpy(host + size.layout.sums_at, device + size.layout.sums_at, sum_bytes);
    }
  }

  std::shared_ptr<EmulatedState> state_;
  mutable std::array<EmulatedStream, 4> streams_;
};

}  // namespace dynatrain
