#include "dynatrain/base/error.hpp"
#include "dynatrain/base/pause.hpp"

#include "transport/nccl/cuda_calls.hpp"
#include "transport/nccl/library.hpp"
#include "transport/nccl/loaded.hpp"
#include <chrono>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// A stream or an event for a scope.
class Handle {
 public:
  using Destroy = CudaStatus (*)(void* handle);
  Handle(Destroy destroy, void* handle) : destroy_(destroy), handle_(handle) {}
  ~Handle() { destroy_(handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  [[nodiscard]] void* get() const { return handle_; }

 private:
  Destroy destroy_;
  void* handle_;
};

class LoadedCuda final : public DeviceApi {
 public:
  explicit LoadedCuda(const CudaCalls& functions) : cuda_(functions) {}

  int set_device(int device) override {
    void* context = nullptr;
    int former = -1;
    if (cuda_.driver_get_current(&context) == 0 && context != nullptr) {
      check(cuda_.get_device(&former), "cudaGetDevice");
    }
    check(cuda_.set_device(device), "cudaSetDevice");
    return former;
  }
  void* create_stream() override {
    // NCCL's few blocks must not wait until those of large copies have all been dealt out.
    int least = 0;
    int greatest = 0;
    check(cuda_.priority_range(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    CudaStream stream = nullptr;
    check(cuda_.stream_create(&stream, kCudaStreamNonBlocking, greatest),
          "cudaStreamCreateWithPriority");
    return stream;
  }
  void destroy_stream(void* stream) override {
    check(cuda_.stream_destroy(stream), "cudaStreamDestroy");
  }
  void* create_event() override {
    CudaEvent event = nullptr;
    check(cuda_.event_create(&event, kCudaEventWithoutTiming), "cudaEventCreateWithFlags");
    return event;
  }
  void destroy_event(void* event) override {
    check(cuda_.event_destroy(event), "cudaEventDestroy");
  }
  void record(void* event, void* stream) override {
    check(cuda_.event_record(event, stream), "cudaEventRecord");
  }
  bool is_done(void* event) override {
    const CudaStatus status = cuda_.event_query(event);
    if (status == kCudaNotReady) {
      return false;
    }
    check(status, "cudaEventQuery");
    return true;
  }
  void stream_wait(void* stream, void* event) override {
    check(cuda_.stream_wait_event(stream, event, 0), "cudaStreamWaitEvent");
  }
  bool zero(std::byte* memory, std::int64_t size_bytes, Deadline deadline) override {
    // Both may go before what is on them has ended.
    const Handle stream(cuda_.stream_destroy, create_stream());
    const Handle event(cuda_.event_destroy, create_event());
    const auto size = static_cast<std::size_t>(size_bytes);
    check(cuda_.memset_async(memory, 0, size, stream.get()), "cudaMemsetAsync");
    record(event.get(), stream.get());
    for (Pause pause; !is_done(event.get()); pause()) {
      if (std::chrono::steady_clock::now() >= deadline) {
        return false;
      }
    }
    return true;
  }
  bool is_host_memory(const void* data) override {
    CudaPointerAttributes attributes{};
    check(cuda_.pointer_get_attributes(&attributes, data), "cudaPointerGetAttributes");
    return attributes.type == kCudaMemoryUnregistered;
  }

 private:
  void check(CudaStatus status,
             const char* what,
             std::source_location where = std::source_location::current()) const {
    if (status != kCudaSuccess) {
      throw DeviceError("transport: " + std::string(what) +
                            " failed: " + cuda_.get_error_string(status) +
                            "\n  the NCCL transport is of no further use",
                        where);
    }
  }

  CudaCalls cuda_;
};

}  // namespace

std::shared_ptr<DeviceApi> load_cuda_runtime() {
  // Those that torch comes with; a later one may have other structures.
  const std::vector<std::string> names{"libcudart.so.13", "libcudart.so.12"};
  Library runtime(names);
  Library driver({"libcuda.so.1"});
  CudaCalls f;
  runtime.require(f.get_error_string, "cudaGetErrorString");
  runtime.require(f.get_device, "cudaGetDevice");
  runtime.require(f.set_device, "cudaSetDevice");
  runtime.require(f.priority_range, "cudaDeviceGetStreamPriorityRange");
  runtime.require(f.stream_create, "cudaStreamCreateWithPriority");
  runtime.require(f.stream_destroy, "cudaStreamDestroy");
  runtime.require(f.event_create, "cudaEventCreateWithFlags");
  runtime.require(f.event_destroy, "cudaEventDestroy");
  runtime.require(f.event_record, "cudaEventRecord");
  runtime.require(f.event_query, "cudaEventQuery");
  runtime.require(f.stream_wait_event, "cudaStreamWaitEvent");
  runtime.require(f.pointer_get_attributes, "cudaPointerGetAttributes");
  runtime.require(f.memset_async, "cudaMemsetAsync");
  driver.require(f.driver_get_current, "cuCtxGetCurrent");
  const std::string& problem = runtime.problem().empty() ? driver.problem() : runtime.problem();
  if (!problem.empty()) {
    throw DeviceError(
        "transport: the CUDA runtime (" + names[0] + " or " + names[1] +
        ") and driver cannot be used: " + problem +
        "\n  no communicator was made\n  import torch first, which brings the runtime");
  }
  return std::make_shared<LoadedCuda>(f);
}

}  // namespace dynatrain
