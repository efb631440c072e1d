// Times the CUDA copier beside plain device copies of the same bytes, interleaved, over random
// bytes and with a cold cache. Batches are prepared, as those of a switch are; what a table costs
// one that is not is in the launches. Prints one JSON document; never asserts. Exit status 3
// where there is no device.

#include "dynatrain/kernels/cuda_copier.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace dynatrain;  // NOLINT(google-build-using-namespace): a program, not a header
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kBufferBytes = 2LL << 30U;
constexpr std::int64_t kFlushBytes = 512LL << 20U;  // several times any GPU's cache
constexpr int kRuns = 20;
constexpr BufferId kSrc{0};
constexpr BufferId kDst{1};

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

Deadline late() {
  return deadline_in(std::chrono::seconds(30));
}

/// What a batch is made of: boxes of rows. A fingerprint only reads: half of what a copy moves.
struct Shape {
  std::string name;
  std::int64_t num_boxes = 1;
  std::int64_t num_rows = 1;
  std::int64_t run_bytes = 1;
  std::int64_t src_shift = 0;  ///< bytes that the source is off a multiple of 256
  std::int64_t elem_bytes = 1;
  std::optional<SumTerm> sums = std::nullopt;

  [[nodiscard]] std::int64_t size_bytes() const { return num_boxes * num_rows * run_bytes; }
};

std::vector<Shape> shapes() {
  constexpr std::int64_t gib = 1LL << 30U;
  std::vector<Shape> all{
      {"one run", 1, 1, gib - 256, 0},
      {"one run of 4-byte elements, with sums", 1, 1, gib - 256, 0, 4, SumTerm::kPart},
      {"one run of 2-byte elements, with sums", 1, 1, gib - 256, 0, 2, SumTerm::kPart},
      {"one run of 4-byte elements, fingerprint", 1, 1, gib - 256, 0, 4, SumTerm::kFingerprint},
      {"one run of 2-byte elements, fingerprint", 1, 1, gib - 256, 0, 2, SumTerm::kFingerprint},
      {"one run, 1 byte off", 1, 1, gib - 256, 1},
      {"one run, 4 bytes off", 1, 1, gib - 256, 4},
      {"one run, 8 bytes off", 1, 1, gib - 256, 8},
      {"10,000 boxes of 64 KiB", 10'000, 1, 64LL << 10U, 0},
      {"10,000 boxes of 64 KiB, with sums", 10'000, 1, 64LL << 10U, 0, 4, SumTerm::kPart},
      {"100,000 boxes of 256 bytes", 100'000, 1, 256, 0}};
  for (const std::int64_t run : {16, 64, 256, 1024, 8192}) {
    const std::int64_t rows = gib / run;
    all.push_back({"rows of " + std::to_string(run) + " bytes", 1, rows, run, 0});
  }
  return all;
}

/// Rows lie at twice their length in the source and densely in the target, as a pack has it.
CopyBatch batch_of(const Shape& shape, std::uint64_t* sums) {
  CopyBatch batch;
  batch.sums = sums;
  batch.term = shape.sums.value_or(SumTerm::kPart);
  const std::int64_t row_elems = shape.run_bytes / shape.elem_bytes;
  const std::int64_t pitch = shape.num_rows > 1 ? 2 * shape.run_bytes : shape.run_bytes;
  const std::int64_t box_bytes = shape.num_rows * shape.run_bytes;
  for (std::int64_t i = 0; i < shape.num_boxes; ++i) {
    CopyDescriptor copy;
    copy.src = kSrc;
    copy.dst = kDst;
    copy.src_offset_bytes = i * shape.num_rows * pitch + shape.src_shift;
    copy.dst_offset_bytes = i * box_bytes;
    copy.elem_bytes = shape.elem_bytes;
    copy.copy = {.extents = {shape.num_rows, row_elems},
                 .src_offset_elems = 0,
                 .dst_offset_elems = 0,
                 .src_strides = {pitch / shape.elem_bytes, 1},
                 .dst_strides = {row_elems, 1}};
    copy.sum_slot = shape.sums ? 0 : -1;
    if (shape.sums == SumTerm::kFingerprint) {
      copy.dst = BufferId(-1);
    }
    batch.copies.push_back(copy);
  }
  return batch;
}

struct Times {
  std::vector<double> seconds;

  [[nodiscard]] double min() const { return *std::min_element(seconds.begin(), seconds.end()); }
  [[nodiscard]] double median() const {
    std::vector<double> sorted = seconds;
    std::nth_element(sorted.begin(), sorted.begin() + std::ssize(sorted) / 2, sorted.end());
    return sorted[sorted.size() / 2];
  }
};

/// Two large buffers, a copier, and a stream for plain copies.
class Bench {
 public:
  Bench()
      : src_(allocate_cuda_memory(CudaMemoryKind::kDevice, kBufferBytes)),
        dst_(allocate_cuda_memory(CudaMemoryKind::kDevice, kBufferBytes)),
        flush_(allocate_cuda_memory(CudaMemoryKind::kDevice, kFlushBytes)),
        sums_(allocate_cuda_memory(CudaMemoryKind::kDevice, 256)),
        copier_(make_cuda_copier({.device = 0, .num_copies = 100'000, .num_batches = 2})) {
    addresses_.set(kSrc, src_.get(), kBufferBytes);
    addresses_.set(kDst, dst_.get(), kBufferBytes);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaEventCreate(&begin_), "making an event");
    check(cudaEventCreate(&end_), "making an event");
    fill();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  [[nodiscard]] std::string copy_line(const Shape& shape) {
    CopyBatch batch = batch_of(shape, reinterpret_cast<std::uint64_t*>(sums_.get()));
    CopyTimes times;
    batch.times = &times;
    prepare(batch);
    Times ours;
    Times plain;
    for (int i = 0; i <= kRuns; ++i) {
      flush_cache();
      copier_->submit(batch, addresses_, {}).wait(late());
      flush_cache();
      const double plain_seconds = plain_copy(shape.size_bytes());
      if (i > 0) {  // the first run of each warms up
        ours.seconds.push_back(std::chrono::duration<double>(times.end - times.begin).count());
        plain.seconds.push_back(plain_seconds);
      }
    }
    return "  {\"name\": \"" + shape.name +
           "\", \"size_bytes\": " + std::to_string(shape.size_bytes()) +
           ", \"ms_median\": " + std::to_string(ours.median() * 1e3) +
           ", \"ms_min\": " + std::to_string(ours.min() * 1e3) +
           ", \"plain_ms_median\": " + std::to_string(plain.median() * 1e3) +
           ", \"share\": " + std::to_string(plain.median() / ours.median()) + "}";
  }

  /// What a launch costs the host, and how long until its end is seen.
  /// A switch submits prepared batches; one that is not has its table made and uploaded as well.
  [[nodiscard]] std::string launch_line(std::int64_t num_boxes, bool is_prepared) {
    CopyBatch batch = batch_of({"", num_boxes, 1, 64, 0}, nullptr);
    if (is_prepared) {
      prepare(batch);
    }
    Times submit;
    Times done;
    for (int i = 0; i <= 10 * kRuns; ++i) {
      const Clock::time_point begin = Clock::now();
      const Token token = copier_->submit(batch, addresses_, {});
      const double submitted = std::chrono::duration<double>(Clock::now() - begin).count();
      while (!token.done()) {
      }
      if (i > 0) {
        submit.seconds.push_back(submitted);
        done.seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
      }
    }
    return "  {\"num_boxes\": " + std::to_string(num_boxes) +
           ", \"is_prepared\": " + (is_prepared ? "true" : "false") +
           ", \"submit_us\": " + std::to_string(submit.median() * 1e6) +
           ", \"submit_us_min\": " + std::to_string(submit.min() * 1e6) +
           ", \"done_us\": " + std::to_string(done.median() * 1e6) + "}";
  }

 private:
  void prepare(CopyBatch& batch) {
    batch.prepared = copier_->prepare(std::vector<const CopyBatch*>{&batch}, addresses_)[0];
  }

  /// Random bytes in the source, repeated: constant ones cost a memory less.
  void fill() {
    constexpr std::int64_t piece = 64LL << 20U;
    static_assert(kBufferBytes % piece == 0);
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> words(static_cast<std::size_t>(piece) / sizeof(std::uint64_t));
    for (std::uint64_t& word : words) {
      word = random();
    }
    for (std::int64_t at = 0; at < kBufferBytes; at += piece) {
      copy_cuda_memory(src_.get() + at, reinterpret_cast<const std::byte*>(words.data()), piece);
    }
  }

  /// Nothing that the next copy reads or writes is in the cache after it.
  void flush_cache() {
    check(cudaMemsetAsync(flush_.get(), 0, static_cast<std::size_t>(kFlushBytes), stream_),
          "flushing the cache");
    check(cudaStreamSynchronize(stream_), "flushing the cache");
  }

  double plain_copy(std::int64_t size_bytes) {
    return timed([&] {
      check(cudaMemcpyAsync(dst_.get(),
                            src_.get(),
                            static_cast<std::size_t>(size_bytes),
                            cudaMemcpyDeviceToDevice,
                            stream_),
            "a plain copy");
    });
  }

  /// Seconds that what `work` puts on the stream takes there.
  template <class Work>
  double timed(Work work) {
    check(cudaEventRecord(begin_, stream_), "recording an event");
    work();
    check(cudaEventRecord(end_, stream_), "recording an event");
    check(cudaEventSynchronize(end_), "a copy");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "asking for a time");
    return static_cast<double>(milliseconds) * 1e-3;
  }

  CudaMemory src_;
  CudaMemory dst_;
  CudaMemory flush_;
  CudaMemory sums_;
  std::unique_ptr<Copier> copier_;
  AddressTable addresses_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += (text.empty() ? "" : ",\n") + line;
  }
  return text;
}

cudaDeviceProp device_properties() {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "asking for the device");
  return properties;
}

void run() {
  const cudaDeviceProp properties = device_properties();
  Bench bench;
  std::vector<std::string> copies;
  for (const Shape& shape : shapes()) {
    copies.push_back(bench.copy_line(shape));
  }
  std::vector<std::string> launches;
  for (const std::int64_t num_boxes : {1, 100, 1'000, 10'000}) {
    launches.push_back(bench.launch_line(num_boxes, true));
    launches.push_back(bench.launch_line(num_boxes, false));
  }
  std::printf(
      "{\"schema_version\": 1, \"kind\": \"gpu-kernels\", \"device\": \"%s\",\n"
      "\"multiprocessors\": %d, \"runs\": %d,\n\"copies\": [\n%s],\n"
      "\"launches\": [\n%s]}\n",
      properties.name,
      properties.multiProcessorCount,
      kRuns,
      joined(copies).c_str(),
      joined(launches).c_str());
}

}  // namespace

int main() {
  const std::string problem = cuda_problem();
  if (!problem.empty()) {
    std::fprintf(stderr, "gpu_kernels: there is no GPU to time: %s\n", problem.c_str());
    return 3;
  }
  try {
    run();
    std::fflush(stdout);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_kernels: %s\n", error.what());
    return 1;
  }
  return 0;
}
