#include <cuda_runtime.h>

#include "kernels/cuda/box_table.hpp"
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

/// One record of an event. Who waits for it is not held up by the next one.
struct Record {
  bool has_passed = false;
  Clock::time_point when;
};

struct Allocation {
  std::size_t size_bytes = 0;
  cudaMemoryType type = cudaMemoryTypeUnregistered;
};

/// What all threads share; `changed` is for whoever waits for a record or an empty stream.
struct Runtime {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<const std::byte*, Allocation> allocations;
  std::set<cudaStream_t> streams;
};

Runtime& runtime() {
  static Runtime one;
  return one;
}

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t answer(bool is_good, cudaError_t otherwise = cudaErrorInvalidValue) {
  if (!is_good) {
    last_error = otherwise;
  }
  return is_good ? cudaSuccess : otherwise;
}

/// Where [memory, memory + size_bytes) lies; kManaged, which there is none of, when it leaves its
/// allocation.
cudaMemoryType type_of(const void* memory, std::size_t size_bytes) {
  const std::lock_guard lock(runtime().mutex);
  const auto* const begin = static_cast<const std::byte*>(memory);
  auto next = runtime().allocations.upper_bound(begin);
  if (next == runtime().allocations.begin()) {
    return cudaMemoryTypeUnregistered;
  }
  const auto& [base, allocation] = *--next;
  if (begin >= base + allocation.size_bytes) {
    return cudaMemoryTypeUnregistered;
  }
  return begin + size_bytes <= base + allocation.size_bytes ? allocation.type
                                                            : cudaMemoryTypeManaged;
}

bool reaches(const void* memory, std::size_t size_bytes) {
  const cudaMemoryType type = type_of(memory, size_bytes);
  return type == cudaMemoryTypeHost || type == cudaMemoryTypeDevice;
}

cudaError_t allocate(void** memory, std::size_t size_bytes, cudaMemoryType type) {
  constexpr std::size_t alignment = 256;
  const std::size_t whole = (size_bytes + alignment - 1) / alignment * alignment;
  auto* const bytes = static_cast<std::byte*>(std::aligned_alloc(alignment, whole));
  if (bytes == nullptr) {
    return answer(false, cudaErrorMemoryAllocation);
  }
  std::memset(bytes, 0xa5, whole);
  const std::lock_guard lock(runtime().mutex);
  runtime().allocations[bytes] = {.size_bytes = size_bytes, .type = type};
  *memory = bytes;
  return cudaSuccess;
}

cudaError_t release(void* memory, cudaMemoryType type) {
  cudaDeviceSynchronize();
  {
    const std::lock_guard lock(runtime().mutex);
    const auto found = runtime().allocations.find(static_cast<std::byte*>(memory));
    if (found == runtime().allocations.end() || found->second.type != type) {
      last_error = cudaErrorInvalidValue;
      return cudaErrorInvalidValue;
    }
    runtime().allocations.erase(found);
  }
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

struct CUstream_st {
  CUstream_st() : thread([this] { work(); }) {
    const std::lock_guard lock(runtime().mutex);
    runtime().streams.insert(this);
  }
  ~CUstream_st() {
    {
      const std::lock_guard lock(runtime().mutex);
      runtime().streams.erase(this);
    }
    add(nullptr);
    thread.join();
  }
  CUstream_st(const CUstream_st&) = delete;
  CUstream_st& operator=(const CUstream_st&) = delete;

  void add(std::function<void()> job) {
    {
      const std::lock_guard lock(runtime().mutex);
      jobs.push_back(std::move(job));
    }
    runtime().changed.notify_all();
  }
  void work() {
    std::unique_lock lock(runtime().mutex);
    while (true) {
      runtime().changed.wait(lock, [this] { return !jobs.empty(); });
      const std::function<void()> job = jobs.front();
      if (job == nullptr) {
        return;
      }
      lock.unlock();
      job();
      lock.lock();
      jobs.pop_front();
      runtime().changed.notify_all();
    }
  }

  std::deque<std::function<void()>> jobs;  ///< the first is under way
  std::thread thread;
};

struct CUevent_st {
  bool is_timed = false;
  std::shared_ptr<Record> last;  ///< null until it was recorded
};

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}

const char* cudaGetErrorName(cudaError_t status) {
  return status == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

const char* cudaGetErrorString(cudaError_t /*status*/) {
  return "the host's runtime refused it";
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return answer(device == 0);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*attribute*/, int device) {
  *value = 1;
  return answer(device == 0);
}

cudaError_t cudaDeviceSynchronize() {
  std::unique_lock lock(runtime().mutex);
  runtime().changed.wait(lock, [] {
    return std::ranges::all_of(runtime().streams,
                               [](auto* stream) { return stream->jobs.empty(); });
  });
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t size_bytes) {
  return allocate(memory, size_bytes, cudaMemoryTypeDevice);
}

cudaError_t cudaFree(void* memory) {
  return release(memory, cudaMemoryTypeDevice);
}

cudaError_t cudaHostAlloc(void** memory, std::size_t size_bytes, unsigned /*flags*/) {
  return allocate(memory, size_bytes, cudaMemoryTypeHost);
}

cudaError_t cudaFreeHost(void* memory) {
  return release(memory, cudaMemoryTypeHost);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  attributes->type = type_of(memory, 1);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* memory, int value, std::size_t size_bytes) {
  const bool is_good = reaches(memory, size_bytes);
  if (is_good) {
    std::memset(memory, value, size_bytes);
  }
  return answer(is_good);
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t size_bytes, cudaStream_t stream) {
  const bool is_good = reaches(memory, size_bytes);
  if (is_good) {
    stream->add([=] { std::memset(memory, value, size_bytes); });
  }
  return answer(is_good);
}

cudaError_t cudaMemcpy(void* dst, const void* src, std::size_t size_bytes, cudaMemcpyKind kind) {
  cudaDeviceSynchronize();
  std::memcpy(dst, src, size_bytes);
  return answer(kind == cudaMemcpyDefault);
}

cudaError_t cudaMemcpyAsync(
    void* dst, const void* src, std::size_t size_bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const void* const on_device = kind == cudaMemcpyHostToDevice ? dst : src;
  const void* const on_host = kind == cudaMemcpyHostToDevice ? src : dst;
  const bool is_good = type_of(on_device, size_bytes) == cudaMemoryTypeDevice &&
                       type_of(on_host, size_bytes) == cudaMemoryTypeHost;
  if (is_good) {
    stream->add([=] { std::memcpy(dst, src, size_bytes); });
  }
  return answer(is_good);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = new CUstream_st();
  return answer(flags == cudaStreamNonBlocking);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::unique_lock lock(runtime().mutex);
  runtime().changed.wait(lock, [stream] { return stream->jobs.empty(); });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  const std::shared_ptr<Record> record = event->last;
  if (record != nullptr) {
    stream->add([record] {
      std::unique_lock lock(runtime().mutex);
      runtime().changed.wait(lock, [&record] { return record->has_passed; });
    });
  }
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st{.is_timed = flags != cudaEventDisableTiming, .last = nullptr};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->last = std::make_shared<Record>();
  const auto pass = [record = event->last] {
    const std::lock_guard lock(runtime().mutex);
    record->has_passed = true;
    record->when = Clock::now();
    runtime().changed.notify_all();
  };
  if (stream == nullptr) {
    cudaDeviceSynchronize();
    pass();
  } else {
    stream->add(pass);
  }
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  return answer(event->last == nullptr || event->last->has_passed, cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const std::lock_guard lock(runtime().mutex);
  const bool is_good = begin->is_timed && end->is_timed && begin->last != nullptr &&
                       end->last != nullptr && begin->last->has_passed && end->last->has_passed;
  if (is_good) {
    *milliseconds =
        std::chrono::duration<float, std::milli>(end->last->when - begin->last->when).count();
  }
  return answer(is_good);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* /*attributes*/, const void* kernel) {
  return answer(kernel != nullptr);
}

namespace {

using Kernel = void (*)(dynatrain::BoxTable);

/// The threads of a block, for one kernel after another: what a kernel shares is static.
class Processor {
 public:
  explicit Processor(unsigned num_threads) : edge_(num_threads + 1), block_(num_threads) {
    for (unsigned thread = 0; thread < num_threads; ++thread) {
      std::thread([this, thread, num_threads] {
        cuda_on_host::block = &block_;
        cuda_on_host::lane = static_cast<int>(thread % cuda_on_host::kLanes);
        cuda_on_host::warp = &block_.warps[thread / cuda_on_host::kLanes];
        threadIdx = dim3(thread);
        blockDim = dim3(num_threads);
        run_kernels();
      }).detach();
    }
  }
  void run(Kernel kernel, dim3 num_blocks, const dynatrain::BoxTable& table) {
    const std::lock_guard lock(mutex_);
    kernel_ = kernel;
    num_blocks_ = num_blocks.x;
    table_ = table;
    edge_.arrive_and_wait();
    edge_.arrive_and_wait();
  }

 private:
  [[noreturn]] void run_kernels() {
    while (true) {
      edge_.arrive_and_wait();
      for (unsigned index = 0; index < num_blocks_; ++index) {
        blockIdx = dim3(index);
        kernel_(table_);
        __syncthreads();
      }
      edge_.arrive_and_wait();
    }
  }

  std::mutex mutex_;
  std::barrier<> edge_;  ///< before a kernel, and after it
  cuda_on_host::Block block_;
  Kernel kernel_ = nullptr;
  unsigned num_blocks_ = 0;
  dynatrain::BoxTable table_;
};

Processor& processor() {
  static Processor& one = *new Processor(dynatrain::kThreadsPerBlock);  // its threads never end
  return one;
}

}  // namespace

cudaError_t cudaLaunchKernel(const void* kernel,
                             dim3 num_blocks,
                             dim3 num_threads,
                             void** arguments,
                             std::size_t /*shared_bytes*/,
                             cudaStream_t stream) {
  const auto table = *static_cast<const dynatrain::BoxTable*>(arguments[0]);
  auto* const run = reinterpret_cast<Kernel>(const_cast<void*>(kernel));
  const bool is_good = num_blocks.x > 0 && num_threads.x == dynatrain::kThreadsPerBlock;
  if (is_good) {
    stream->add([=] { processor().run(run, num_blocks, table); });
  }
  return answer(is_good);
}
