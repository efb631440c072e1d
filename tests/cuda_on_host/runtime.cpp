#include <cuda_runtime.h>

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

namespace {

using Clock = std::chrono::steady_clock;
using cuda_on_host::answer;

/// One record of an event. Who waits for it is not held up by the next one.
struct Record {
  std::mutex mutex;
  std::condition_variable passed;
  bool has_passed = false;
  Clock::time_point when;
};

struct Allocation {
  std::size_t size_bytes = 0;
  cudaMemoryType type = cudaMemoryTypeUnregistered;
};

/// What all threads share. Streams have locks of their own: one for all would order what no event
/// orders, and hide that from a sanitizer.
struct Runtime {
  std::mutex mutex;
  std::map<const std::byte*, Allocation> allocations;
  std::set<cudaStream_t> streams;
};

Runtime& runtime() {
  static Runtime one;
  return one;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

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

cudaError_t cuda_on_host::answer(bool is_good, cudaError_t otherwise) {
  if (!is_good) {
    last_error = otherwise;
  }
  return is_good ? cudaSuccess : otherwise;
}

struct CUstream_st {
  explicit CUstream_st(int of_device) : device(of_device), thread([this] { work(); }) {
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
      const std::lock_guard lock(mutex);
      jobs.push_back(std::move(job));
    }
    changed.notify_all();
  }
  void wait_until_empty() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return jobs.empty(); });
  }
  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return !jobs.empty(); });
      const std::function<void()> job = jobs.front();
      if (job == nullptr) {
        return;
      }
      lock.unlock();
      job();
      lock.lock();
      jobs.pop_front();
      changed.notify_all();
    }
  }

  int device;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> jobs;  ///< the first is under way
  std::thread thread;
};

struct CUevent_st {
  int device = 0;
  bool is_timed = false;
  std::shared_ptr<Record> last;  ///< null until it was recorded
};

void cuda_on_host::enqueue(void* stream, std::function<void()> job) {
  static_cast<cudaStream_t>(stream)->add(std::move(job));
}

bool cuda_on_host::is_current(cudaStream_t stream) {
  return stream->device == current_device;
}

namespace {

bool has_passed(const CUevent_st& event) {
  if (event.last == nullptr) {
    return true;
  }
  const std::lock_guard lock(event.last->mutex);
  return event.last->has_passed;
}

}  // namespace

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
  *count = cuda_on_host::kNumDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  const bool is_good = device >= 0 && device < cuda_on_host::kNumDevices;
  current_device = is_good ? device : current_device;
  return answer(is_good);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*attribute*/, int device) {
  *value = 1;
  return answer(device >= 0 && device < cuda_on_host::kNumDevices);
}

cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(runtime().mutex);  // no stream goes meanwhile
  for (const cudaStream_t stream : runtime().streams) {
    if (stream->device == current_device) {
      stream->wait_until_empty();
    }
  }
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
  *stream = new CUstream_st(current_device);
  return answer(flags == cudaStreamNonBlocking);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream->wait_until_empty();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  const std::shared_ptr<Record> record = event->last;
  if (record != nullptr) {
    stream->add([record] {
      std::unique_lock lock(record->mutex);
      record->passed.wait(lock, [&record] { return record->has_passed; });
    });
  }
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st{
      .device = current_device, .is_timed = flags != cudaEventDisableTiming, .last = nullptr};
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const bool is_good = stream == nullptr || stream->device == event->device;
  if (is_good) {
    event->last = std::make_shared<Record>();
    const auto pass = [record = event->last] {
      const std::lock_guard lock(record->mutex);
      record->has_passed = true;
      record->when = Clock::now();
      record->passed.notify_all();
    };
    if (stream == nullptr) {
      cudaDeviceSynchronize();
      pass();
    } else {
      stream->add(pass);
    }
  }
  return answer(is_good);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return answer(has_passed(*event), cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const bool is_good = begin->is_timed && end->is_timed && begin->last != nullptr &&
                       end->last != nullptr && has_passed(*begin) && has_passed(*end);
  if (is_good) {
    *milliseconds =
        std::chrono::duration<float, std::milli>(end->last->when - begin->last->when).count();
  }
  return answer(is_good);
}
