#include "dynatrain/kernels/cuda_copier.hpp"

#include "kernels/cuda/copy_kernel.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_handles.hpp"
#include "kernels/cuda/device_error.hpp"
#include <array>
#include <mutex>
#include <utility>

namespace dynatrain {
namespace {

using Clock = std::chrono::steady_clock;

/// One stream for batches that wait for nothing, the others for batches that wait for events.
constexpr std::size_t kNumStreams = 4;
/// Times are counted from an event whose host time is known; as CUDA counts in floats, it is made
/// again before they get coarse (4 microseconds after a minute).
constexpr std::chrono::seconds kAnchorAge{60};
constexpr std::chrono::milliseconds kAnchorTimeout{1};

/// The host's time of events on a device. Threads: any.
class DeviceClock {
 public:
  DeviceClock() : stream_(make_cuda_stream()) { set_anchor(); }

  /// Called where a run is prepared: no launch may wait for it.
  void refresh() {
    const std::lock_guard lock(mutex_);
    if (Clock::now() - anchor_time_ > kAnchorAge) {
      set_anchor();
    }
  }
  [[nodiscard]] Clock::time_point when(cudaEvent_t event) const {
    const std::lock_guard lock(mutex_);
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, anchor_.get(), event), "asking for an event's time");
    return anchor_time_ + std::chrono::duration_cast<Clock::duration>(
                              std::chrono::duration<double, std::milli>(milliseconds));
  }

 private:
  /// The stream is empty, so the event passes at once; where it stands behind other work, as with
  /// one queue for all streams, its time is nobody's and the old anchor stays.
  void set_anchor() {
    CudaEvent anchor = make_cuda_event(cudaEventDefault);
    const Clock::time_point begin = Clock::now();
    check(cudaEventRecord(anchor.get(), stream_.get()), "recording an event");
    while (!has_passed(anchor.get())) {
      if (Clock::now() - begin > kAnchorTimeout && anchor_ != nullptr) {
        return;
      }
    }
    anchor_time_ = begin + (Clock::now() - begin) / 2;
    anchor_ = std::move(anchor);
  }

  mutable std::mutex mutex_;
  CudaStream stream_;
  CudaEvent anchor_;
  Clock::time_point anchor_time_;
};

class TimedEvent final : public DeviceEvent {
 public:
  TimedEvent(int device, std::shared_ptr<DeviceClock> clock)
      : device_(device), clock_(std::move(clock)), event_(make_cuda_event(cudaEventDefault)) {}

  void record(void* stream) override {
    const DeviceScope scope(device_);
    check(cudaEventRecord(event_.get(), static_cast<cudaStream_t>(stream)), "recording an event");
  }
  [[nodiscard]] bool has_passed() const override { return dynatrain::has_passed(event_.get()); }
  void hold(void* stream) const override {
    const DeviceScope scope(device_);
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event_.get(), 0),
          "making a stream wait for an event");
  }
  [[nodiscard]] Clock::time_point when() const override { return clock_->when(event_.get()); }

 private:
  int device_;
  std::shared_ptr<DeviceClock> clock_;
  CudaEvent event_;
};

class CudaTableMemory final : public TableMemory {
 public:
  explicit CudaTableMemory(std::int64_t size_bytes)
      : size_bytes_(size_bytes),
        host_(allocate_cuda_memory(CudaMemoryKind::kPinned, size_bytes)),
        device_(allocate_cuda_memory(CudaMemoryKind::kDevice, size_bytes)) {}

  [[nodiscard]] std::byte* host() const override { return host_.get(); }
  [[nodiscard]] std::byte* device() const override { return device_.get(); }
  [[nodiscard]] std::int64_t size_bytes() const override { return size_bytes_; }

 private:
  std::int64_t size_bytes_;
  CudaMemory host_;
  CudaMemory device_;
};

class StagingMemory final : public CopierMemory {
 public:
  StagingMemory(std::int64_t size_bytes, CudaMemoryKind kind)
      : memory_(allocate_cuda_memory(kind, size_bytes)) {
    check(cudaMemset(memory_.get(), 0, static_cast<std::size_t>(size_bytes)), "zeroing staging");
    check(cudaDeviceSynchronize(), "zeroing staging");  // set-up: nothing else is under way yet
  }
  [[nodiscard]] std::byte* data() const override { return memory_.get(); }

 private:
  CudaMemory memory_;
};

class CudaDevice final : public StreamDevice {
 public:
  explicit CudaDevice(int device) : device_(device) {
    const DeviceScope scope(device_);
    check(cudaDeviceGetAttribute(&num_processors_, cudaDevAttrMultiProcessorCount, device_),
          "asking for the number of multiprocessors");
    load_copy_kernel();
    clock_ = std::make_shared<DeviceClock>();
    for (CudaStream& stream : streams_) {
      stream = make_cuda_stream();
    }
  }

  [[nodiscard]] int num_processors() const override { return num_processors_; }
  [[nodiscard]] std::size_t num_streams() const override { return streams_.size(); }
  [[nodiscard]] void* stream(std::size_t index) const override { return streams_.at(index).get(); }
  [[nodiscard]] std::unique_ptr<DeviceEvent> make_event() override {
    const DeviceScope scope(device_);
    return std::make_unique<TimedEvent>(device_, clock_);
  }
  [[nodiscard]] std::unique_ptr<TableMemory> make_table_memory(std::int64_t size_bytes) override {
    const DeviceScope scope(device_);
    return std::make_unique<CudaTableMemory>(size_bytes);
  }
  void upload(const TableMemory& memory, std::int64_t size_bytes) override {
    const DeviceScope scope(device_);
    const CudaStream stream = make_cuda_stream();
    check(cudaMemcpyAsync(memory.device(),
                          memory.host(),
                          static_cast<std::size_t>(size_bytes),
                          cudaMemcpyHostToDevice,
                          stream.get()),
          "uploading tables of boxes");
    check(cudaStreamSynchronize(stream.get()), "uploading tables of boxes");
    clock_->refresh();
  }
  [[nodiscard]] std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes,
                                                       Place place) override {
    const DeviceScope scope(device_);
    const auto kind = place == Place::kHost ? CudaMemoryKind::kPinned : CudaMemoryKind::kDevice;
    return std::make_unique<StagingMemory>(size_bytes, kind);
  }
  [[nodiscard]] bool adds_to(const std::uint64_t* sums) const override {
    const DeviceScope scope(device_);
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, sums), "asking where sums lie");
    return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  }
  void launch(const TableLaunch& launch) override {
    const DeviceScope scope(device_);
    auto* stream = static_cast<cudaStream_t>(launch.stream);
    for (const std::span<std::byte> range : launch.zeroed) {
      check(cudaMemsetAsync(range.data(), 0, range.size(), stream), "zeroing sums");
    }
    if (launch.memory != nullptr) {
      run_table(launch, stream);
    }
    for (const ReadBack& read : launch.read_back) {
      check(cudaMemcpyAsync(read.host,
                            read.src,
                            static_cast<std::size_t>(read.size_bytes),
                            cudaMemcpyDeviceToHost,
                            stream),
            "reading back");
    }
  }

 private:
  static void run_table(const TableLaunch& launch, cudaStream_t stream) {
    const TableSize& size = *launch.size;
    std::byte* host = launch.memory->host();
    std::byte* device = launch.memory->device();
    const bool has_own_sums = launch.sums == nullptr && size.num_groups > 0;
    const auto sum_bytes = static_cast<std::size_t>(size.num_groups) * sizeof(std::uint64_t);
    if (!launch.is_uploaded) {
      check(cudaMemcpyAsync(device,
                            host,
                            static_cast<std::size_t>(size.layout.upload_bytes),
                            cudaMemcpyHostToDevice,
                            stream),
            "uploading a table of boxes");
    } else if (has_own_sums) {
      check(cudaMemsetAsync(device + size.layout.sums_at, 0, sum_bytes, stream), "zeroing sums");
    }
    launch_copy_kernel({.table = view_table(size, device, launch.sums),
                        .num_blocks = size.split.num_blocks,
                        .sums = size.sums},
                       stream);
    if (has_own_sums) {
      check(cudaMemcpyAsync(host + size.layout.sums_at,
                            device + size.layout.sums_at,
                            sum_bytes,
                            cudaMemcpyDeviceToHost,
                            stream),
            "fetching sums");
    }
  }

  int device_;
  int num_processors_ = 1;
  std::shared_ptr<DeviceClock> clock_;
  std::array<CudaStream, kNumStreams> streams_;
};

std::string cuda_version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version / 10 % 100);
}

}  // namespace

void check(cudaError_t status, const std::string& what, std::source_location where) {
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // else whoever asks next takes it for their own
    throw_device_error(
        what,
        std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")",
        where);
  }
}

std::string cuda_device_problem() {
  int num_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_devices);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    const std::string text =
        std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
    int offered = 0;
    const bool is_known = cudaDriverGetVersion(&offered) == cudaSuccess && offered > 0;
    return text + "; built with CUDA " + cuda_version_text(CUDART_VERSION) +
           ", the driver offers " + (is_known ? cuda_version_text(offered) : "none");
  }
  return num_devices > 0 ? "" : "the driver reports no device";
}

std::unique_ptr<StreamDevice> make_cuda_device(int device) {
  return std::make_unique<CudaDevice>(device);
}

}  // namespace dynatrain
