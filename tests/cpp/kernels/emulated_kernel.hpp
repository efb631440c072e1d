#pragma once

// Runs the body of the copy kernel on the host, block by block and thread by thread, and checks
// what a device would not forgive: misaligned accesses.

#include <gtest/gtest.h>

#include "kernels/cuda/box_table_builder.hpp"
#include "kernels/cuda/copy_body.hpp"
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

namespace dynatrain {

/// The accesses of a launch.
struct Accesses {
  std::map<int, std::int64_t> num_loads;   ///< by width
  std::map<int, std::int64_t> num_stores;  ///< by width
  std::int64_t stored_bytes = 0;
};

/// Host memory behind the kernel's body.
template <TableSums kTableSums>
class EmulatedMachine {
 public:
  static constexpr TableSums kSums = kTableSums;

  explicit EmulatedMachine(const BoxTable& table) : table_(table) {}

  template <int kWidth>
  Bits load(std::uint64_t address) {
    expect_aligned(address, kWidth);
    ++accesses.num_loads[kWidth];
    Bits bits;
    std::memcpy(static_cast<void*>(&bits), reinterpret_cast<const void*>(address), kWidth);
    return bits;
  }
  template <int kWidth>
  void store(std::uint64_t address, Bits bits) {
    expect_aligned(address, kWidth);
    ++accesses.num_stores[kWidth];
    accesses.stored_bytes += kWidth;
    std::memcpy(reinterpret_cast<void*>(address), &bits, kWidth);
  }
  void add(std::uint32_t group, std::uint64_t term) {
    table_.sums[table_.group_sums[group]] += term;
  }

  Accesses accesses;

 private:
  static void expect_aligned(std::uint64_t address, int width) {
    if (address % static_cast<std::uint64_t>(width) != 0) {
      ADD_FAILURE() << "an access of " << width << " bytes at " << address << " is misaligned";
    }
  }

  BoxTable table_;
};

template <TableSums kSums>
Accesses run_all_blocks(const BoxTable& table, std::int64_t num_blocks, std::uint32_t num_threads) {
  EmulatedMachine<kSums> machine(table);
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const BlockWork work = find_block_work(table, block);
    for (std::uint32_t thread = 0; thread < num_threads; ++thread) {
      run_thread(table, work, {.index = thread, .num_workers = num_threads}, machine);
    }
  }
  return machine.accesses;
}

/// Runs a launch: all blocks in order, all threads of a block in order.
inline Accesses run_blocks(const BoxTable& table,
                           TableSums sums,
                           std::int64_t num_blocks,
                           std::uint32_t num_threads = kThreadsPerBlock) {
  switch (sums) {
    case TableSums::kNone:
      return run_all_blocks<TableSums::kNone>(table, num_blocks, num_threads);
    case TableSums::kParts:
      return run_all_blocks<TableSums::kParts>(table, num_blocks, num_threads);
    case TableSums::kFingerprints:
      return run_all_blocks<TableSums::kFingerprints>(table, num_blocks, num_threads);
  }
  return {};
}

/// A table in memory that is aligned as device memory is.
class EmulatedTable {
 public:
  EmulatedTable(const CopyBatch& batch, const AddressTable& addresses, const TableOptions& options)
      : builder_(options), size_(builder_.build(batch, addresses)) {
    memory_.resize(static_cast<std::size_t>(size_.layout.total_bytes / 16));
    builder_.write(memory(), true);
  }
  [[nodiscard]] const TableSize& size() const { return size_; }
  [[nodiscard]] BoxTable view(std::uint64_t* sums) { return view_table(size_, memory(), sums); }

 private:
  struct alignas(16) Line {
    std::byte bytes[16];
  };
  std::byte* memory() { return memory_.data()->bytes; }

  BoxTableBuilder builder_;
  TableSize size_;
  std::vector<Line> memory_;
};

}  // namespace dynatrain
