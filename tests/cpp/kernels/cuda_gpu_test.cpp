// The CUDA copier on a real GPU: what every copier promises, and the CPU copier as the oracle.

#include "dynatrain/base/error.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"
#include "dynatrain/kernels/cuda_copier.hpp"

#include "gpu.hpp"
#include "kernels/copier_conformance.hpp"
#include "kernels/preparing_copier.hpp"
#include "kernels/random_boxes.hpp"
#include <array>
#include <chrono>

namespace dynatrain {
namespace {

using Bytes = std::vector<std::byte>;

Deadline late() {
  return deadline_in(std::chrono::seconds(60));
}

/// Pinned memory, which host and device both reach.
class PinnedResource final : public std::pmr::memory_resource {
 private:
  void* do_allocate(std::size_t bytes, std::size_t /*alignment*/) override {
    return allocate_cuda_memory(CudaMemoryKind::kPinned, static_cast<std::int64_t>(bytes))
        .release();
  }
  void do_deallocate(void* memory, std::size_t /*bytes*/, std::size_t /*alignment*/) override {
    FreeCudaMemory{.kind = CudaMemoryKind::kPinned}(static_cast<std::byte*>(memory));
  }
  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }
};

PinnedResource pinned;

CopierCase on_gpu(std::string name, std::function<std::unique_ptr<Copier>()> make) {
  return {.name = std::move(name), .make = std::move(make), .memory = &pinned, .problem = [] {
            const std::string problem = cuda_problem();
            return problem.empty() ? "" : "needs a GPU: " + problem;
          }};
}

INSTANTIATE_TEST_SUITE_P(
    Gpu,
    CopierConformance,
    ::testing::Values(on_gpu("cuda", [] { return make_cuda_copier(); }),
                      on_gpu("cuda_prepared",
                             [] { return std::make_unique<PreparingCopier>(make_cuda_copier()); })),
    [](const auto& test) { return test.param.name; });

/// Device memory of a copier's test.
class GpuCopier : public ::testing::Test, protected RandomBoxes {
 protected:
  static constexpr std::size_t kBufferBytes = std::size_t{16} << 20U;

  void SetUp() override {
    DYNATRAIN_NEEDS_GPU();
    copier_ = make_cuda_copier();
    src_ = noise(kBufferBytes, 1);
    poison_ = noise(kBufferBytes, 2);
    device_src_ = on_device(src_);
    device_dst_ = on_device(poison_);
  }
  static Bytes noise(std::size_t size, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Bytes bytes(size);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    return bytes;
  }
  static CudaMemory on_device(const Bytes& bytes) {
    const auto size_bytes = static_cast<std::int64_t>(bytes.size());
    CudaMemory memory = allocate_cuda_memory(CudaMemoryKind::kDevice, size_bytes);
    copy_cuda_memory(memory.get(), bytes.data(), size_bytes);
    return memory;
  }
  static AddressTable table_of(std::byte* src, std::byte* dst) {
    AddressTable table;
    table.set(kSrc, src, kBufferBytes);
    table.set(kDst, dst, kBufferBytes);
    return table;
  }
  /// The same batch through both copiers, from the same poison.
  void expect_same(CopyBatch batch) {
    Bytes expected = poison_;
    std::array<std::uint64_t, kNumSums> expected_sums{};
    std::array<std::uint64_t, kNumSums> sums{};
    batch.sums = expected_sums.data();
    oracle_->submit(batch, table_of(src_.data(), expected.data()), {}).wait(late());
    copy_cuda_memory(device_dst_.get(), poison_.data(), kBufferBytes);
    batch.sums = sums.data();
    const AddressTable addresses = table_of(device_src_.get(), device_dst_.get());
    copier_->submit(batch, addresses, {}).wait(late());
    Bytes dst(kBufferBytes);
    copy_cuda_memory(dst.data(), device_dst_.get(), kBufferBytes);
    EXPECT_TRUE(dst == expected);
    EXPECT_EQ(sums, expected_sums);
  }

  std::unique_ptr<Copier> copier_;
  std::unique_ptr<Copier> oracle_ = make_cpu_copier(1);
  Bytes src_;
  Bytes poison_;
  CudaMemory device_src_;
  CudaMemory device_dst_;
};

// Every width, any memory order, misaligned bases, empty boxes, one box and many in a launch.
TEST_F(GpuCopier, RandomBatchesEqualTheCpuCopier) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto num_boxes = static_cast<std::int64_t>(1 + random() % 24);
    const std::int64_t room = static_cast<std::int64_t>(kBufferBytes) / num_boxes;
    CopyBatch batch;
    for (std::int64_t i = 0; i < num_boxes; ++i) {
      batch.copies.push_back(random_box(i * room, room, random));
    }
    expect_same(batch);
  }
}

TEST_F(GpuCopier, RunsOfPrimeAndEdgeLengthsEqualTheCpuCopier) {
  CopyBatch batch;
  std::int64_t at = 0;
  for (const std::int64_t count : {1, 2, 3, 15, 16, 17, 31, 127, 128, 257, 4095, 4097, 65537}) {
    for (std::int64_t shift = 0; shift < 17; ++shift) {
      batch.copies.push_back(run(1, count));
      batch.copies.back().src_offset_bytes = at + shift;
      batch.copies.back().dst_offset_bytes = at + 16 - shift;
      batch.copies.back().sum_slot = static_cast<int>(shift) % kNumSums;
      at += (count + 47) / 16 * 16;
    }
  }
  ASSERT_LE(at, static_cast<std::int64_t>(kBufferBytes));
  expect_same(batch);
}

TEST_F(GpuCopier, HundredThousandTinyBoxesEqualTheCpuCopier) {
  CopyBatch batch;
  for (std::int64_t i = 0; i < 100'000; ++i) {
    batch.copies.push_back(run(1, 1 + i % 97));
    batch.copies.back().src_offset_bytes = i * 100;
    batch.copies.back().dst_offset_bytes = (99'999 - i) * 100;
    batch.copies.back().sum_slot = static_cast<int>(i % kNumSums);
  }
  expect_same(batch);
}

// Sums that travel in a message lie on the device, and are there in the order of the stream.
TEST_F(GpuCopier, SumsOnTheDeviceAreZeroedAddedAndReadBack) {
  const auto sums = copier_->allocate(4096, Place::kDevice);
  const auto host = copier_->allocate(4096, Place::kHost);
  CopyBatch batch;
  batch.copies.push_back(run(4, 300'001));
  batch.copies.back().sum_slot = 2;
  batch.sums = reinterpret_cast<std::uint64_t*>(sums->data());
  batch.zeroed.emplace_back(sums->data(), 64);
  batch.read_back.push_back({.src = sums->data(), .host = host->data(), .size_bytes = 64});
  const AddressTable addresses = table_of(device_src_.get(), device_dst_.get());
  std::array<std::uint64_t, kNumSums> expected{};
  CopyBatch on_host;
  on_host.copies = batch.copies;
  on_host.sums = expected.data();
  Bytes scratch = poison_;
  oracle_->submit(on_host, table_of(src_.data(), scratch.data()), {}).wait(late());
  for (int round = 0; round < 3; ++round) {
    copier_->submit(batch, addresses, {}).wait(late());
    const auto* const read = reinterpret_cast<const std::uint64_t*>(host->data());
    EXPECT_EQ(read[2], expected[2]);
    EXPECT_EQ(read[1], 0U);
  }
}

TEST_F(GpuCopier, FingerprintsEqualTheCpuCopier) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    CopyBatch batch;
    batch.term = SumTerm::kFingerprint;
    constexpr std::int64_t kRoom = static_cast<std::int64_t>(kBufferBytes) / 16;
    for (std::int64_t i = 0; i < 16; ++i) {
      batch.copies.push_back(fingerprinted(random_box(i * kRoom, kRoom, random), random));
    }
    expect_same(batch);
  }
}

TEST_F(GpuCopier, PlacesOfMemoryAreTold) {
  const auto on_host = copier_->allocate(64, Place::kHost);
  EXPECT_EQ(copier_->place_of(on_host->data()), Place::kHost);
  EXPECT_EQ(copier_->place_of(src_.data()), Place::kHost);
  EXPECT_EQ(copier_->place_of(device_src_.get() + 5), Place::kDevice);
}

// 32 bits overflow in three places that smaller boxes do not reach: bytes, elements, units.
TEST(GpuCopierLarge, BoxOfMoreThanTwoToThe31ElementsArrives) {
  DYNATRAIN_NEEDS_GPU();
  constexpr std::int64_t kPattern = (64LL << 20U) + 4096;
  constexpr std::int64_t kRow = (1LL << 30U) + 12'345;
  constexpr std::int64_t kSize = 2 * kRow + 64;
  CudaMemory src;
  CudaMemory dst;
  try {
    src = allocate_cuda_memory(CudaMemoryKind::kDevice, kSize);
    dst = allocate_cuda_memory(CudaMemoryKind::kDevice, kSize + 64);
  } catch (const DeviceError& error) {
    GTEST_SKIP() << "needs 4.3 GB of device memory: " << error.what();
  }
  std::mt19937_64 random(3);
  Bytes pattern(kPattern);
  for (std::byte& byte : pattern) {
    byte = static_cast<std::byte>(random());
  }
  const Bytes poison(pattern.rbegin(), pattern.rend());
  for (std::int64_t at = 0; at < kSize; at += kPattern) {
    copy_cuda_memory(src.get() + at, pattern.data(), std::min(kPattern, kSize - at));
    copy_cuda_memory(dst.get() + at, poison.data(), std::min(kPattern, kSize - at));
  }
  CopyBatch batch;
  CopyDescriptor& rows = batch.copies.emplace_back();
  rows.src = BufferId(0);
  rows.dst = BufferId(1);
  rows.copy = {.extents = {2, kRow},
               .src_offset_elems = 0,
               .dst_offset_elems = 3,
               .src_strides = {kRow, 1},
               .dst_strides = {kRow + 7, 1}};
  AddressTable addresses;
  addresses.set(BufferId(0), src.get(), kSize);
  addresses.set(BufferId(1), dst.get(), kSize + 64);
  make_cuda_copier()->submit(batch, addresses, {}).wait(late());
  constexpr std::int64_t kWindow = 1 << 12;
  Bytes found(kWindow);
  for (const std::int64_t at : std::array<std::int64_t, 5>{
           0, kRow - kWindow, kRow, (1LL << 31U) - 100, 2 * kRow - kWindow}) {
    const std::int64_t row = at / kRow;
    copy_cuda_memory(found.data(), dst.get() + 3 + row * 7 + at, kWindow);
    for (std::int64_t i = 0; i < kWindow; ++i) {
      ASSERT_EQ(found[static_cast<std::size_t>(i)],
                pattern[static_cast<std::size_t>((at + i) % kPattern)])
          << "element " << at + i;
    }
  }
  constexpr std::int64_t kGap = 7;  // between the rows of the target, which nothing may touch
  copy_cuda_memory(found.data(), dst.get() + 3 + kRow, kGap);
  for (std::int64_t i = 0; i < kGap; ++i) {
    ASSERT_EQ(found[static_cast<std::size_t>(i)],
              poison[static_cast<std::size_t>((3 + kRow + i) % kPattern)])
        << "byte " << i << " of the gap";
  }
}

}  // namespace
}  // namespace dynatrain
