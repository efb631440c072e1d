#include "dynatrain/base/device_completion.hpp"
#include "dynatrain/base/pause.hpp"
#include "dynatrain/kernels/cuda_copier.hpp"

#include "kernels/cuda/cuda_handles.hpp"
#include "kernels/cuda/device_error.hpp"
#include <algorithm>

namespace dynatrain {
namespace {

/// A place on somebody else's stream.
class StreamToken final : public DeviceCompletion {
 public:
  StreamToken(int device, cudaStream_t stream)
      : device_(device), event_(make_cuda_event(cudaEventDisableTiming)) {
    check(cudaEventRecord(event_.get(), stream), "recording an event");
  }

  [[nodiscard]] bool done() const override {
    // A failure is an end as well; wait says which.
    return cudaEventQuery(event_.get()) != cudaErrorNotReady;
  }
  void wait(Deadline deadline) override {
    for (Pause pause; !has_passed(event_.get()); pause()) {
      if (std::chrono::steady_clock::now() >= deadline) {
        throw_late("the work before a token of a stream");
      }
    }
  }
  [[nodiscard]] bool is_on_stream() const override { return true; }
  void order_before(void* stream) override {
    const DeviceScope scope(device_);
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event_.get(), 0),
          "making a stream wait for an event");
  }

 private:
  int device_;
  CudaEvent event_;
};

}  // namespace

Token cuda_stream_token(int device, void* stream) {
  const DeviceScope scope(device);
  return Token(std::make_shared<StreamToken>(device, static_cast<cudaStream_t>(stream)));
}

void FreeCudaMemory::operator()(std::byte* memory) const noexcept {
  const DeviceScope scope(device, std::nothrow);
  // Ignored: at the end of a process the driver may be gone before the memory is.
  if (kind == CudaMemoryKind::kDevice) {
    static_cast<void>(cudaFree(memory));
  } else {
    static_cast<void>(cudaFreeHost(memory));
  }
}

CudaMemory allocate_cuda_memory(CudaMemoryKind kind, std::int64_t size_bytes) {
  // CUDA answers a null pointer for nothing; an owner of nothing is still an address here.
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(size_bytes, 1));
  void* memory = nullptr;
  const std::string what = "allocating " + std::to_string(size_bytes) + " bytes of ";
  if (kind == CudaMemoryKind::kDevice) {
    check(cudaMalloc(&memory, size), what + "device memory");
  } else {
    check(cudaHostAlloc(&memory, size, cudaHostAllocPortable), what + "pinned memory");
  }
  return {static_cast<std::byte*>(memory),
          FreeCudaMemory{.kind = kind, .device = current_cuda_device()}};
}

void copy_cuda_memory(std::byte* dst, const std::byte* src, std::int64_t size_bytes) {
  check(cudaMemcpy(dst, src, static_cast<std::size_t>(size_bytes), cudaMemcpyDefault),
        "copying " + std::to_string(size_bytes) + " bytes");
}

}  // namespace dynatrain
