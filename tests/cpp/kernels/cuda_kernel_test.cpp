// The body of the CUDA copy kernel, run on the host against the CPU copier.

#include "dynatrain/base/error.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"

#include <gtest/gtest.h>

#include "kernels/emulated_kernel.hpp"
#include "kernels/random_boxes.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::size_t kBufferBytes = 256U << 10U;

/// How a batch is run: how small a box must be, and how units are dealt.
struct Launch {
  std::int64_t max_units = kMaxUnits;
  std::int64_t units_per_block = 1024;
  std::uint32_t num_threads = kThreadsPerBlock;
};

/// The same batch through the CPU copier and through the emulated kernel.
class CudaKernel : public ::testing::Test, protected RandomBoxes {
 protected:
  using Bytes = std::vector<std::byte>;

  static Bytes noise(std::size_t size, std::mt19937_64& random) {
    Bytes bytes(size);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    return bytes;
  }
  void SetUp() override {
    std::mt19937_64 random(1);
    src_ = noise(kBufferBytes, random);
    poison_ = noise(kBufferBytes, random);
  }
  AddressTable addresses(Bytes& dst) {
    AddressTable table;
    table.set(kSrc, src_.data(), static_cast<std::int64_t>(src_.size()));
    table.set(kDst, dst.data(), static_cast<std::int64_t>(dst.size()));
    return table;
  }
  Accesses expect_same(CopyBatch batch, const Launch& launch = {}) {
    Bytes expected = poison_;
    Bytes dst = poison_;
    std::array<std::uint64_t, kNumSums> expected_sums{};
    std::array<std::uint64_t, kNumSums> sums{};
    batch.sums = expected_sums.data();
    oracle_->submit(batch, addresses(expected), {}).wait(deadline_in(std::chrono::seconds(60)));
    EmulatedTable table(batch,
                        addresses(dst),
                        {.units_per_block = launch.units_per_block, .max_units = launch.max_units});
    const Accesses accesses = run_blocks(table.view(sums.data()),
                                         table.size().sums,
                                         table.size().split.num_blocks,
                                         launch.num_threads);
    EXPECT_TRUE(dst == expected);
    EXPECT_EQ(sums, expected_sums);
    EXPECT_EQ(accesses.stored_bytes, stored_bytes(batch));
    return accesses;
  }
  static std::int64_t stored_bytes(const CopyBatch& batch) {
    std::int64_t bytes = 0;
    for (const CopyDescriptor& copy : batch.copies) {
      bytes += copy.dst.value < 0 ? 0 : num_elements(copy.copy.extents) * copy.elem_bytes;
    }
    return bytes;
  }

  std::unique_ptr<Copier> oracle_ = make_cpu_copier(1);
  Bytes src_;
  Bytes poison_;
};

// Every width of element and access, every kind of edge, any memory order, misaligned bases, empty
// boxes, boxes that are cut in parts, and blocks that hold one box, a part of one, or many.
TEST_F(CudaKernel, RandomBoxesEqualTheCpuCopier) {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    CopyBatch batch;
    const std::int64_t num_boxes = pick(random, {1, 2, 5, 40});
    const std::int64_t room = static_cast<std::int64_t>(kBufferBytes) / num_boxes;
    for (std::int64_t i = 0; i < num_boxes; ++i) {
      batch.copies.push_back(random_box(i * room, room, random));
    }
    expect_same(batch,
                {.max_units = pick(random, {kMaxUnits, 2000}),
                 .units_per_block = pick(random, {1, 37, 64, 1024}),
                 .num_threads = static_cast<std::uint32_t>(pick(random, {1, 3, 32}))});
    if (HasFailure()) {
      return;
    }
  }
}

// The sizes at which a window, a warp or a block is just full.
TEST_F(CudaKernel, RunsOfEdgeLengthsEqualTheCpuCopier) {
  for (const std::int64_t length : {1, 2, 15, 16, 17, 31, 127, 128, 129, 4095, 4096, 4097, 65521}) {
    for (const std::int64_t src_shift : {0, 1, 2, 4, 8, 15}) {
      for (const std::int64_t dst_shift : {0, 1, 2, 4, 8, 15}) {
        CopyBatch batch;
        batch.copies.push_back(run(1, length));
        batch.copies.back().src_offset_bytes = src_shift;
        batch.copies.back().dst_offset_bytes = dst_shift;
        batch.copies.back().sum_slot = 0;
        expect_same(batch);
      }
    }
  }
}

// The number; a table that costs a search per unit would not end in time.
TEST_F(CudaKernel, HundredThousandTinyBoxesEqualTheCpuCopier) {
  CopyBatch batch;
  for (std::int64_t i = 0; i < 100000; ++i) {
    batch.copies.push_back(run(1, 1 + i % 2));
    batch.copies.back().src_offset_bytes = 2 * i;
    batch.copies.back().dst_offset_bytes = 2 * ((i * 7919) % 100000);
    batch.copies.back().sum_slot = static_cast<int>(i % kNumSums);
    batch.copies.back().first_elem = i;
  }
  expect_same(batch);
}

// What the speed of the kernel stands on: aligned rows move in accesses of 16 bytes alone.
TEST_F(CudaKernel, AlignedRowsMoveInSixteenByteAccessesOnly) {
  CopyBatch batch;
  batch.copies.push_back(rows(2, 100, 128, 512));
  batch.copies.back().dst_offset_bytes = 16;
  const Accesses accesses = expect_same(batch);
  EXPECT_EQ(accesses.num_stores, (std::map<int, std::int64_t>{{16, 1600}}));
  EXPECT_EQ(accesses.num_loads, accesses.num_stores);
}

// A row that begins four bytes into a window loses its first and last window to steps, no more.
TEST_F(CudaKernel, MisalignedRowsMoveInStepsAtTheirEndsOnly) {
  CopyBatch batch;
  batch.copies.push_back(rows(4, 10, 256, 512));
  batch.copies.back().src_offset_bytes = 4;
  batch.copies.back().dst_offset_bytes = 20;
  batch.copies.back().sum_slot = 2;
  const Accesses accesses = expect_same(batch);
  EXPECT_EQ(accesses.num_stores, (std::map<int, std::int64_t>{{4, 40}, {16, 630}}));
}

// Rows of an odd pitch begin at every place of a window; each row finds its own head.
TEST_F(CudaKernel, RowsOfAnOddPitchStillMoveMostlyInWideAccesses) {
  CopyBatch batch;
  batch.copies.push_back(rows(1, 64, 1000, 1001));
  const Accesses accesses = expect_same(batch);
  EXPECT_GT(accesses.num_stores.at(16) * 16, accesses.stored_bytes * 96 / 100);
}

// A direct message is summed where it lies; a store would race with its reader.
TEST_F(CudaKernel, CopyWithoutTargetStoresNothing) {
  CopyBatch batch;
  batch.copies.push_back(run(2, 5001));
  batch.copies.back().dst = kNone;
  batch.copies.back().sum_slot = 1;
  const Accesses accesses = expect_same(batch);
  EXPECT_TRUE(accesses.num_stores.empty());
  EXPECT_FALSE(accesses.num_loads.empty());
}

// Whatever the memory looks like, each element's index is that in the whole tensor; the tensor may
// be cut and strided on both sides, and nothing may be written.
TEST_F(CudaKernel, FingerprintsEqualTheCpuCopier) {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    CopyBatch batch;
    batch.term = SumTerm::kFingerprint;
    const std::int64_t num_boxes = pick(random, {1, 2, 5, 40});
    const std::int64_t room = static_cast<std::int64_t>(kBufferBytes) / num_boxes;
    for (std::int64_t i = 0; i < num_boxes; ++i) {
      batch.copies.push_back(fingerprinted(random_box(i * room, room, random), random));
    }
    const Accesses accesses =
        expect_same(batch,
                    {.max_units = pick(random, {kMaxUnits, 2000}),
                     .units_per_block = pick(random, {1, 37, 64, 1024}),
                     .num_threads = static_cast<std::uint32_t>(pick(random, {1, 3, 32}))});
    EXPECT_TRUE(accesses.num_stores.empty());
    if (HasFailure()) {
      return;
    }
  }
}

// A chip of 132 multiprocessors: little work reaches all of them, much work is dealt in blocks that
// are worth starting, and no unit is lost or dealt twice.
TEST(WorkSplit, FillsAllProcessorsAndCoversAllUnits) {
  constexpr int num_processors = 132;
  for (const std::int64_t num_units :
       {1, 255, 256, 257, 1000, 33791, 33792, 33793, 135168, 135169, 500000, 100000000}) {
    const WorkSplit split = split_work(num_units, num_processors);
    SCOPED_TRACE(std::to_string(num_units) + " units in blocks of " +
                 std::to_string(split.units_per_block));
    EXPECT_GE(split.num_blocks * split.units_per_block, num_units);
    EXPECT_LT((split.num_blocks - 1) * split.units_per_block, num_units);
    EXPECT_GE(split.num_blocks,
              std::min<std::int64_t>(num_processors, (num_units + 255) / 256) / 2);
    EXPECT_EQ(split.units_per_block % kThreadsPerBlock, 0);
    EXPECT_LE(split.units_per_block, 8192);
  }
  EXPECT_EQ(split_work(33792, num_processors).num_blocks, num_processors);
  EXPECT_EQ(split_work(100000000, num_processors).units_per_block, 8192);
  EXPECT_EQ(split_work(0, num_processors).num_blocks, 0);
}

// A shard by columns: its rows are aligned in memory, whatever their indices are.
TEST_F(CudaKernel, AlignedRowsAreFingerprintedInSixteenByteLoadsOnly) {
  CopyBatch batch;
  batch.term = SumTerm::kFingerprint;
  batch.copies.push_back(rows(2, 100, 128, 512));
  batch.copies.back().dst = kNone;
  batch.copies.back().sum_slot = 0;
  batch.copies.back().copy.dst_offset_elems = 777;
  batch.copies.back().copy.dst_strides = {1001, 1};
  EXPECT_EQ(expect_same(batch).num_loads, (std::map<int, std::int64_t>{{16, 1600}}));
}

}  // namespace
}  // namespace dynatrain
