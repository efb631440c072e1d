#ifdef DYNATRAIN_HAS_NCCL

#include "dynatrain/base/error.hpp"

#include <cuda_runtime_api.h>

#include "transport/nccl/library.hpp"
#include "transport/nccl/loaded.hpp"
#include <source_location>
#include <utility>

namespace dynatrain {
namespace {

/// The functions of the library, each under its own name.
struct Functions {
  decltype(cudaGetErrorString)* get_error_string = nullptr;
  decltype(cudaGetDevice)* get_device = nullptr;
  decltype(cudaSetDevice)* set_device = nullptr;
  decltype(cudaDeviceGetStreamPriorityRange)* priority_range = nullptr;
  decltype(cudaStreamCreateWithPriority)* stream_create = nullptr;
  decltype(cudaStreamDestroy)* stream_destroy = nullptr;
  cudaError_t (*event_create)(cudaEvent_t*, unsigned int) = nullptr;
  decltype(cudaEventDestroy)* event_destroy = nullptr;
  cudaError_t (*event_record)(cudaEvent_t, cudaStream_t) = nullptr;
  decltype(cudaEventQuery)* event_query = nullptr;
  cudaError_t (*stream_wait_event)(cudaStream_t, cudaEvent_t, unsigned int) = nullptr;
  cudaError_t (*pointer_get_attributes)(cudaPointerAttributes*, const void*) = nullptr;
  cudaError_t (*memset_async)(void*, int, std::size_t, cudaStream_t) = nullptr;
  cudaError_t (*stream_synchronize)(cudaStream_t) = nullptr;
  int (*driver_get_current)(void**) = nullptr;  ///< cuCtxGetCurrent
};

class LoadedCuda final : public DeviceApi {
 public:
  explicit LoadedCuda(const Functions& functions) : cuda_(functions) {}

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
    cudaStream_t stream = nullptr;
    check(cuda_.stream_create(&stream, cudaStreamNonBlocking, greatest),
          "cudaStreamCreateWithPriority");
    return stream;
  }
  void destroy_stream(void* stream) override {
    check(cuda_.stream_destroy(static_cast<cudaStream_t>(stream)), "cudaStreamDestroy");
  }
  void* create_event() override {
    cudaEvent_t event = nullptr;
    check(cuda_.event_create(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    return event;
  }
  void destroy_event(void* event) override {
    check(cuda_.event_destroy(static_cast<cudaEvent_t>(event)), "cudaEventDestroy");
  }
  void record(void* event, void* stream) override {
    check(cuda_.event_record(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)),
          "cudaEventRecord");
  }
  bool is_done(void* event) override {
    const cudaError_t status = cuda_.event_query(static_cast<cudaEvent_t>(event));
    if (status == cudaErrorNotReady) {
      return false;
    }
    check(status, "cudaEventQuery");
    return true;
  }
  void stream_wait(void* stream, void* event) override {
    check(cuda_.stream_wait_event(
              static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0),
          "cudaStreamWaitEvent");
  }
  void zero(std::byte* memory, std::int64_t size_bytes) override {
    auto* const stream = static_cast<cudaStream_t>(create_stream());
    const auto size = static_cast<std::size_t>(size_bytes);
    cudaError_t status = cuda_.memset_async(memory, 0, size, stream);
    status = status == cudaSuccess ? cuda_.stream_synchronize(stream) : status;
    destroy_stream(stream);
    check(status, "cudaMemsetAsync");
  }
  bool is_host_memory(const void* data) override {
    cudaPointerAttributes attributes{};
    check(cuda_.pointer_get_attributes(&attributes, data), "cudaPointerGetAttributes");
    return attributes.type == cudaMemoryTypeUnregistered;
  }

 private:
  void check(cudaError_t status,
             const char* what,
             std::source_location where = std::source_location::current()) const {
    if (status != cudaSuccess) {
      throw DeviceError("transport: " + std::string(what) +
                            " failed: " + cuda_.get_error_string(status) +
                            "\n  the NCCL transport is of no further use",
                        where);
    }
  }

  Functions cuda_;
};

}  // namespace

std::shared_ptr<DeviceApi> load_cuda_runtime(const std::string& path) {
  // The calls below are the same in the runtime before, whose structures are no larger.
  constexpr int major = CUDART_VERSION / 1000;
  const std::string name = "libcudart.so." + std::to_string(major);
  const std::string older = "libcudart.so." + std::to_string(major - 1);
  Library runtime({name, older}, path);
  Library driver({"libcuda.so.1"}, "");
  Functions f;
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
  runtime.require(f.stream_synchronize, "cudaStreamSynchronize");
  driver.require(f.driver_get_current, "cuCtxGetCurrent");
  const std::string& problem = runtime.problem().empty() ? driver.problem() : runtime.problem();
  if (!problem.empty()) {
    throw DeviceError("transport: the CUDA runtime (" + name + " or " + older +
                      ") and driver cannot be used: " + problem +
                      "\n  no communicator was made\n  import torch first, or name a library");
  }
  return std::make_shared<LoadedCuda>(f);
}

}  // namespace dynatrain

#endif
