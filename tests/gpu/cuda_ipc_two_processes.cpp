// Two processes on one GPU: one exports device memory, the other reads it in place with the strided
// copy of the CUDA copier. Ends with 0, 1, or 77 where there is no device.

#include "dynatrain/base/error.hpp"
#include "dynatrain/kernels/cuda_copier.hpp"
#include "dynatrain/transport/cuda_ipc.hpp"

#include "transport/cuda_ipc/driver_calls.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace dynatrain {
namespace {

constexpr int kSkipped = 77;
constexpr std::int64_t kRows = 1024;
constexpr std::int64_t kStride = 4096;    // bytes from row to row: two pieces of 2 MiB in all
constexpr std::int64_t kRowBytes = 1000;  // of which these are read
constexpr std::int64_t kOffset = 24;      // of the tensor in its memory
constexpr std::int64_t kTensorBytes = kRows * kStride - kOffset;

Deadline late() {
  return deadline_in(std::chrono::seconds(60));
}

void expect(bool is_so, const std::string& claim) {
  if (!is_so) {
    throw InternalError("the test found that this is false: " + claim);
  }
}

/// A folder as a store: a file for each key.
class FolderStore final : public Store {
 public:
  explicit FolderStore(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void set(const std::string& key, const std::string& value) override {
    const std::filesystem::path part = path_of(key).string() + ".part";
    std::ofstream(part, std::ios::binary) << value;
    std::filesystem::rename(part, path_of(key));
  }
  std::string get(const std::string& key, Deadline deadline) override {
    while (!std::filesystem::exists(path_of(key))) {
      if (std::chrono::steady_clock::now() >= deadline) {
        throw TransportError("the folder has no '" + key + "'", -1, -1, true);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::ifstream file(path_of(key), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  [[nodiscard]] std::filesystem::path path_of(std::string key) const {
    std::ranges::replace(key, '/', '-');
    return folder_ / key;
  }
  std::filesystem::path folder_;
};

/// The test needs no messages: the processes' words go through the store.
class NoMessages final : public Transport {
 public:
  explicit NoMessages(int rank) : rank_(rank) {}
  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return 2; }
  Token submit_sends(std::span<const WireMessage> /*messages*/,
                     std::span<const Token> /*after*/,
                     Deadline /*deadline*/) override {
    return {};
  }
  Token submit_receives(std::span<const WireMessage> /*messages*/,
                        std::span<const Token> /*after*/,
                        Deadline /*deadline*/) override {
    return {};
  }
  void abort(std::string_view /*reason*/) noexcept override {}

 private:
  int rank_;
};

/// Device memory of the owner, and how it is freed.
struct OwnedMemory {
  std::byte* base = nullptr;
  std::function<void()> free;
};

OwnedMemory from_cuda_malloc() {
  auto memory =
      std::make_shared<CudaMemory>(allocate_cuda_memory(CudaMemoryKind::kDevice, kRows * kStride));
  return {.base = memory->get(), .free = [memory] { memory->reset(); }};
}

/// As torch's expandable segments are: pieces of their own, mapped back to back.
OwnedMemory from_mem_create() {
  const DriverCalls cuda = find_driver_calls().first;
  AllocationProperties wanted{};
  wanted.type = kAllocationPinned;
  wanted.handle_types = kPosixFileHandle;
  wanted.location.type = kLocationDevice;
  std::size_t piece = 0;
  cuda.check(cuda.granularity(&piece, &wanted, kLeastGranularity), "granularity");
  const std::size_t total = (kRows * kStride + piece - 1) / piece * piece;
  DevicePointer base = 0;
  cuda.check(cuda.reserve(&base, total, 0, 0, 0), "reserve");
  for (std::size_t at = 0; at < total; at += piece) {
    PhysicalHandle handle = 0;
    cuda.check(cuda.mem_create(&handle, piece, &wanted, 0), "create");
    cuda.check(cuda.mem_map(base + at, piece, 0, handle, 0), "map");
    cuda.check(cuda.mem_release(handle), "release");
  }
  MemoryAccess access{};
  access.location = wanted.location;
  access.flags = kReadWrite;
  cuda.check(cuda.set_access(base, total, &access, 1), "set access");
  return {.base = std::bit_cast<std::byte*>(base), .free = [cuda, base, total] {
            cuda.check(cuda.mem_unmap(base, total), "unmap");
            cuda.check(cuda.address_free(base, total), "free address");
          }};
}

std::vector<std::byte> pattern(int round) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(kTensorBytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] =
        static_cast<std::byte>((i * 131 + i / 4096 + static_cast<std::size_t>(round) * 17) % 251);
  }
  return bytes;
}

void own(OneSided& side, FolderStore& store, int round) {
  const OwnedMemory memory = round % 2 == 0 ? from_cuda_malloc() : from_mem_create();
  std::byte* const tensor = memory.base + kOffset;
  side.publish(std::array{ExposedBuffer{BufferId(7), tensor, kTensorBytes}});
  const std::vector<std::byte> bytes = pattern(round);  // written after it was published
  copy_cuda_memory(tensor, bytes.data(), kTensorBytes);
  store.set("ready/" + std::to_string(round), "");
  static_cast<void>(store.get("read/" + std::to_string(round), late()));
  side.withdraw();
  memory.free();
}

void read(OneSided& side, FolderStore& store, Copier& copier, int round) {
  side.publish({});
  const std::byte* const mapped = side.map(1, BufferId(7), late()).base;
  static_cast<void>(store.get("ready/" + std::to_string(round), late()));
  constexpr std::int64_t kNumRows = kRows - 1;  // the last one ends a little early
  const CudaMemory target = allocate_cuda_memory(CudaMemoryKind::kDevice, kNumRows * kRowBytes);
  AddressTable addresses;
  addresses.set(BufferId(0), const_cast<std::byte*>(mapped), kTensorBytes);
  addresses.set(BufferId(1), target.get(), kNumRows * kRowBytes);
  CopyBatch batch;
  batch.copies.push_back({.src = BufferId(0),
                          .dst = BufferId(1),
                          .copy = {.extents = {kNumRows, kRowBytes},
                                   .src_offset_elems = 0,
                                   .dst_offset_elems = 0,
                                   .src_strides = {kStride, 1},
                                   .dst_strides = {kRowBytes, 1}}});
  copier.submit(batch, addresses, {}).wait(late());
  std::vector<std::byte> arrived(static_cast<std::size_t>(kNumRows * kRowBytes));
  copy_cuda_memory(arrived.data(), target.get(), kNumRows * kRowBytes);
  const std::vector<std::byte> bytes = pattern(round);
  for (std::int64_t row = 0; row < kNumRows; ++row) {
    expect(std::equal(arrived.begin() + row * kRowBytes,
                      arrived.begin() + (row + 1) * kRowBytes,
                      bytes.begin() + row * kStride),
           "round " + std::to_string(round) + ", row " + std::to_string(row) +
               " is what the owner wrote last");
  }
  side.release();
  store.set("read/" + std::to_string(round), "");
}

int run_rank(int rank, const std::filesystem::path& folder) {
  if (const std::string problem = cuda_problem(); !problem.empty()) {
    std::printf("skipped: %s\n", problem.c_str());
    return kSkipped;
  }
  const CudaMemory context = allocate_cuda_memory(CudaMemoryKind::kDevice, 1);
  NoMessages messages(rank);
  const auto store = std::make_shared<FolderStore>(folder);
  const PeerMemoryConnection connection =
      make_cuda_ipc_transport(messages, store, {0, 1}, {}, late());
  expect(connection.report.handle_problem.empty(), connection.report.handle_problem);
  expect(connection.report.file_problem.empty(), connection.report.file_problem);
  OneSided& side = *connection.transport->one_sided();
  const auto copier = make_cuda_copier();
  // Both kinds of memory, each freed and made again: what was mapped before is of no use then.
  for (int round = 0; round < 6; ++round) {
    if (rank == 1) {
      own(side, *store, round);
    } else {
      read(side, *store, *copier, round);
    }
  }
  std::printf("rank %d read or lent 6 times\n", rank);
  return 0;
}

int run_guarded(int rank, const std::filesystem::path& folder) {
  try {
    return run_rank(rank, folder);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    return 1;
  }
}

int run_ranks() {
  std::string name = (std::filesystem::temp_directory_path() / "cuda_ipc_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    std::perror("mkdtemp");
    return 1;
  }
  // Both ranks are children: CUDA does not survive a fork, and the parent forks twice.
  std::array<pid_t, 2> children{};
  for (int rank = 0; rank < 2; ++rank) {
    children[static_cast<std::size_t>(rank)] = fork();
    if (children[static_cast<std::size_t>(rank)] == 0) {
      const int code = run_guarded(rank, name);
      std::fflush(nullptr);
      _exit(code);
    }
  }
  int worst = 0;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    worst = worst == 1 || code == 1 ? 1 : std::max(worst, code);
  }
  std::filesystem::remove_all(name);
  return worst;
}

}  // namespace
}  // namespace dynatrain

int main() {
  return dynatrain::run_ranks();
}
