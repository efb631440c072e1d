// The body of the CUDA copy kernel, run on the host against the CPU copier.

#include "dynatrain/base/error.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"

#include <gtest/gtest.h>

#include "kernels/emulated_kernel.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr BufferId kSrc{0};
constexpr BufferId kDst{1};
constexpr BufferId kNone{-1};
constexpr std::size_t kBufferBytes = 256U << 10U;
constexpr int kNumSums = 7;

/// How a batch is run: how small a box must be, and how units are dealt.
struct Launch {
  std::int64_t max_units = kMaxUnits;
  std::int64_t units_per_block = 1024;
  std::uint32_t num_threads = kThreadsPerBlock;
};

/// The same batch through the CPU copier and through the emulated kernel.
class CudaKernel : public ::testing::Test {
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
  EmulatedMachine expect_same(CopyBatch batch, const Launch& launch = {}) {
    Bytes expected = poison_;
    Bytes dst = poison_;
    std::array<std::uint64_t, kNumSums> expected_sums{};
    std::array<std::uint64_t, kNumSums> sums{};
    batch.sums = expected_sums.data();
    oracle_->submit(batch, addresses(expected), {}).wait(deadline_in(std::chrono::seconds(60)));
    EmulatedTable table(batch, addresses(dst), launch.max_units);
    const std::int64_t num_units = table.size().num_units;
    const EmulatedMachine machine =
        run_blocks(table.view(sums.data(), launch.units_per_block),
                   (num_units + launch.units_per_block - 1) / launch.units_per_block,
                   launch.num_threads);
    EXPECT_TRUE(dst == expected);
    EXPECT_EQ(sums, expected_sums);
    EXPECT_EQ(machine.stored_bytes, stored_bytes(batch));
    return machine;
  }
  static std::int64_t stored_bytes(const CopyBatch& batch) {
    std::int64_t bytes = 0;
    for (const CopyDescriptor& copy : batch.copies) {
      bytes += copy.dst.value < 0 ? 0 : num_elements(copy.copy.extents) * copy.elem_bytes;
    }
    return bytes;
  }
  /// `count` elements in a run.
  static CopyDescriptor run(std::int64_t elem_bytes, std::int64_t count) {
    CopyDescriptor copy;
    copy.src = kSrc;
    copy.dst = kDst;
    copy.elem_bytes = elem_bytes;
    copy.copy = {.extents = {count},
                 .src_offset_elems = 0,
                 .dst_offset_elems = 0,
                 .src_strides = {1},
                 .dst_strides = {1}};
    return copy;
  }
  /// Rows of `count` elements, `stride` elements apart in both buffers.
  static CopyDescriptor rows(std::int64_t elem_bytes,
                             std::int64_t num_rows,
                             std::int64_t count,
                             std::int64_t stride) {
    CopyDescriptor copy = run(elem_bytes, count);
    copy.copy.extents = {num_rows, count};
    copy.copy.src_strides = {stride, 1};
    copy.copy.dst_strides = {stride, 1};
    return copy;
  }
  static std::int64_t pick(std::mt19937_64& random, std::initializer_list<std::int64_t> values) {
    return values.begin()[random() % values.size()];
  }
  /// Gives one side of a box of `extents` dense strides in a random memory order, with gaps.
  static std::int64_t random_strides(const Dims& extents,
                                     Strides& strides,
                                     std::mt19937_64& random) {
    std::vector<int> order(static_cast<std::size_t>(extents.rank()));
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<int>(order.size() - 1 - i);
    }
    if (random() % 3 == 0) {
      std::shuffle(order.begin(), order.end(), random);
    }
    strides = Dims::filled(extents.rank(), 1);
    std::int64_t stride = random() % 5 == 0 ? 2 : 1;
    for (const int d : order) {
      strides[d] = stride;
      stride *= extents[d] + pick(random, {0, 0, 1, 8});
    }
    return stride;
  }
  /// A random box that lies in [begin, begin + room) of both buffers.
  static CopyDescriptor random_box(std::int64_t begin, std::int64_t room, std::mt19937_64& random) {
    while (true) {
      CopyDescriptor copy = run(pick(random, {1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 33}), 1);
      const int rank = static_cast<int>(pick(random, {1, 1, 2, 2, 3, 4, 8}));
      copy.copy.extents = Dims::filled(rank, 1);
      for (int d = 0; d < rank; ++d) {
        copy.copy.extents[d] = pick(random, {1, 2, 3, 7, 8, 16, 31, 64, 127, 256});
      }
      if (random() % 20 == 0) {
        copy.copy.extents[0] = 0;
      }
      copy.src_offset_bytes = begin + pick(random, {0, 0, 1, 2, 3, 4, 8, 13, 16});
      copy.dst_offset_bytes = begin + pick(random, {0, 0, 1, 2, 3, 4, 8, 13, 16});
      if (random() % 2 == 0) {
        copy.dst_offset_bytes = copy.src_offset_bytes;
      }
      const std::int64_t src_elems =
          random_strides(copy.copy.extents, copy.copy.src_strides, random);
      std::int64_t dst_elems = src_elems;
      copy.copy.dst_strides = copy.copy.src_strides;
      if (random() % 2 == 0) {
        dst_elems = random_strides(copy.copy.extents, copy.copy.dst_strides, random);
      }
      if (std::max(src_elems, dst_elems) * 2 * copy.elem_bytes + 16 > room) {
        continue;
      }
      copy.sum_slot = static_cast<int>(pick(random, {-1, -1, 0, 1, 2, 3, kNumSums - 1}));
      copy.first_elem = static_cast<std::int64_t>(random() % 100000);
      if (copy.sum_slot >= 0 && random() % 4 == 0) {
        copy.dst = kNone;
      }
      return copy;
    }
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
  const EmulatedMachine machine = expect_same(batch);
  EXPECT_EQ(machine.num_stores, (std::map<int, std::int64_t>{{16, 1600}}));
  EXPECT_EQ(machine.num_loads, machine.num_stores);
}

// A row that begins four bytes into a window loses its first and last window to steps, no more.
TEST_F(CudaKernel, MisalignedRowsMoveInStepsAtTheirEndsOnly) {
  CopyBatch batch;
  batch.copies.push_back(rows(4, 10, 256, 512));
  batch.copies.back().src_offset_bytes = 4;
  batch.copies.back().dst_offset_bytes = 20;
  batch.copies.back().sum_slot = 2;
  const EmulatedMachine machine = expect_same(batch);
  EXPECT_EQ(machine.num_stores, (std::map<int, std::int64_t>{{4, 40}, {16, 630}}));
}

// Rows of an odd pitch begin at every place of a window; each row finds its own head.
TEST_F(CudaKernel, RowsOfAnOddPitchStillMoveMostlyInWideAccesses) {
  CopyBatch batch;
  batch.copies.push_back(rows(1, 64, 1000, 1001));
  const EmulatedMachine machine = expect_same(batch);
  EXPECT_GT(machine.num_stores.at(16) * 16, machine.stored_bytes * 96 / 100);
}

// A direct message is summed where it lies; a store would race with its reader.
TEST_F(CudaKernel, CopyWithoutTargetStoresNothing) {
  CopyBatch batch;
  batch.copies.push_back(run(2, 5001));
  batch.copies.back().dst = kNone;
  batch.copies.back().sum_slot = 1;
  const EmulatedMachine machine = expect_same(batch);
  EXPECT_TRUE(machine.num_stores.empty());
  EXPECT_FALSE(machine.num_loads.empty());
}

}  // namespace
}  // namespace dynatrain
