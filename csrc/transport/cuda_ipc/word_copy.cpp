#include "transport/cuda_ipc/word_copy.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/pause.hpp"

#include <chrono>

namespace dynatrain {
namespace {

[[noreturn]] void throw_late() {
  throw DeviceError(
      "transport: the device has not copied a word of 8 bytes before the deadline\n  what else "
      "runs on it may hang\n  no state has changed; the word's memory is left to the device\n  "
      "see what runs there (nvidia-smi), or run over messages (transport='nccl' or 'c10d')");
}

/// One copy's stream, and its word in memory that the device reads and writes itself: a copy of
/// other host memory holds the calling thread up.
class WordCopy {
 public:
  explicit WordCopy(const DriverCalls& cuda) : cuda_(cuda) {
    void* host = nullptr;
    cuda_.check(cuda_.host_alloc(&host, sizeof(std::uint64_t)), "cuMemAllocHost");
    word_ = static_cast<std::uint64_t*>(host);
    const DriverStatus made = cuda_.stream_create(&stream_, kNonBlockingStream);
    if (made != kDriverSuccess) {
      cuda_.host_free(word_);
    }
    cuda_.check(made, "cuStreamCreate");
  }
  ~WordCopy() {
    if (!is_pending_) {
      cuda_.stream_destroy(stream_);
      cuda_.host_free(word_);
    }
  }
  WordCopy(const WordCopy&) = delete;
  WordCopy& operator=(const WordCopy&) = delete;

  [[nodiscard]] std::uint64_t* word() const { return word_; }
  [[nodiscard]] void* stream() const { return stream_; }
  /// Waits for what was submitted with this status.
  void wait(DriverStatus submitted, const char* what, Deadline deadline) {
    cuda_.check(submitted, what);
    is_pending_ = true;
    DriverStatus status = kDriverNotReady;
    for (Pause pause; (status = cuda_.stream_query(stream_)) == kDriverNotReady; pause()) {
      if (std::chrono::steady_clock::now() >= deadline) {
        throw_late();
      }
    }
    cuda_.check(status, "cuStreamQuery");
    is_pending_ = false;
  }

 private:
  const DriverCalls& cuda_;
  std::uint64_t* word_ = nullptr;
  void* stream_ = nullptr;
  bool is_pending_ = false;
};

}  // namespace

void write_word(const DriverCalls& cuda, DevicePointer dst, std::uint64_t word, Deadline deadline) {
  WordCopy copy(cuda);
  *copy.word() = word;
  copy.wait(
      cuda.copy_in(dst, copy.word(), sizeof(word), copy.stream()), "cuMemcpyHtoDAsync", deadline);
}

std::uint64_t read_word(const DriverCalls& cuda, DevicePointer src, Deadline deadline) {
  WordCopy copy(cuda);
  copy.wait(cuda.copy_out(copy.word(), src, sizeof(std::uint64_t), copy.stream()),
            "cuMemcpyDtoHAsync",
            deadline);
  return *copy.word();
}

}  // namespace dynatrain
