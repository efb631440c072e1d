// copy_kernel.cu itself, with blocks of every length: what the emulated machine leaves out is the
// sums that a block gathers, and what warps do together.

#include "dynatrain/kernels/cpu_copier.hpp"

#include <gtest/gtest.h>

#include "kernels/cuda/copy_kernel.hpp"
#include "kernels/cuda/cuda_handles.hpp"
#include "kernels/emulated_kernel.hpp"
#include "kernels/random_boxes.hpp"
#include <array>
#include <chrono>
#include <random>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

class CudaKernelSource : public ::testing::Test, protected RandomBoxes {
 protected:
  static constexpr std::int64_t kBufferBytes = 64 << 10;

  CudaKernelSource() : src_(noise(1)), poison_(noise(2)) {}

  static std::vector<std::byte> noise(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> bytes(kBufferBytes);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    return bytes;
  }
  AddressTable addresses(std::vector<std::byte>& dst) {
    AddressTable table;
    table.set(kSrc, src_.data(), kBufferBytes);
    table.set(kDst, dst.data(), kBufferBytes);
    return table;
  }
  void expect_same(CopyBatch batch, std::int64_t units_per_block) {
    std::vector<std::byte> expected = poison_;
    std::vector<std::byte> dst = poison_;
    std::array<std::uint64_t, kNumSums> expected_sums{};
    std::array<std::uint64_t, kNumSums> sums{};
    batch.sums = expected_sums.data();
    oracle_->submit(batch, addresses(expected), {}).wait(deadline_in(std::chrono::seconds(60)));
    EmulatedTable table(batch, addresses(dst), {.units_per_block = units_per_block});
    const CudaStream stream = make_cuda_stream();
    launch_copy_kernel({.table = table.view(sums.data()),
                        .num_blocks = table.size().split.num_blocks,
                        .sums = table.size().sums},
                       stream.get());
    ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    EXPECT_TRUE(dst == expected);
    EXPECT_EQ(sums, expected_sums);
  }

  std::unique_ptr<Copier> oracle_ = make_cpu_copier(1);
  std::vector<std::byte> src_;
  std::vector<std::byte> poison_;
};

TEST_F(CudaKernelSource, RandomBoxesEqualTheCpuCopier) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    CopyBatch batch;
    const bool is_fingerprint = seed % 4 == 0;
    batch.term = is_fingerprint ? SumTerm::kFingerprint : SumTerm::kPart;
    const std::int64_t num_boxes = pick(random, {1, 3, 12});
    const std::int64_t room = kBufferBytes / num_boxes;
    for (std::int64_t i = 0; i < num_boxes; ++i) {
      const CopyDescriptor box = random_box(i * room, room, random);
      batch.copies.push_back(is_fingerprint ? fingerprinted(box, random) : box);
    }
    expect_same(batch, pick(random, {256, 512, 1024}));
  }
}

// A box fills several blocks, each of whose warps is in one group: they add by shuffles.
TEST_F(CudaKernelSource, SumsOfOneBoxAreThoseOfAllItsBlocks) {
  CopyBatch batch;
  batch.copies.push_back(run(2, 20000));
  batch.copies.back().sum_slot = 3;
  expect_same(batch, 1024);
}

// A warp in several groups, and more groups in a block than it has places for.
TEST_F(CudaKernelSource, SumsOfManyTinyBoxesOfOneBlockAreToldApart) {
  CopyBatch batch;
  for (int i = 0; i < 300; ++i) {
    batch.copies.push_back(run(4, 1 + i % 3));
    batch.copies.back().src_offset_bytes = std::int64_t{64} * i;
    batch.copies.back().dst_offset_bytes = std::int64_t{64} * i;
    batch.copies.back().sum_slot = i % kNumSums;
    batch.copies.back().first_elem = i;
  }
  expect_same(batch, 1024);
}

}  // namespace
}  // namespace dynatrain
