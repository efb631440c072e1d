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

/// Host memory behind the kernel's body; counts accesses.
class EmulatedMachine {
 public:
  static constexpr bool kAddsSums = true;

  explicit EmulatedMachine(const BoxTable& table) : table_(table) {}

  template <int kWidth>
  Bits load(std::uint64_t address) {
    expect_aligned(address, kWidth);
    ++num_loads[kWidth];
    Bits bits;
    std::memcpy(static_cast<void*>(&bits), reinterpret_cast<const void*>(address), kWidth);
    return bits;
  }
  template <int kWidth>
  void store(std::uint64_t address, Bits bits) {
    expect_aligned(address, kWidth);
    ++num_stores[kWidth];
    stored_bytes += kWidth;
    std::memcpy(reinterpret_cast<void*>(address), &bits, kWidth);
  }
  void add(std::uint32_t group, std::uint64_t term) {
    table_.sums[table_.group_sums[group]] += term;
  }

  std::map<int, std::int64_t> num_loads;   ///< by width
  std::map<int, std::int64_t> num_stores;  ///< by width
  std::int64_t stored_bytes = 0;

 private:
  static void expect_aligned(std::uint64_t address, int width) {
    if (address % static_cast<std::uint64_t>(width) != 0) {
      ADD_FAILURE() << "an access of " << width << " bytes at " << address << " is misaligned";
    }
  }

  BoxTable table_;
};

/// Runs a launch: all blocks in order, all threads of a block in order.
inline EmulatedMachine run_blocks(const BoxTable& table,
                                  std::int64_t num_blocks,
                                  std::uint32_t num_threads = kThreadsPerBlock) {
  EmulatedMachine machine(table);
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const BlockWork work = find_block_work(table, block);
    for (std::uint32_t thread = 0; thread < num_threads; ++thread) {
      run_thread(table, work, {.index = thread, .num_workers = num_threads}, machine);
    }
  }
  return machine;
}

/// A table in memory that is aligned as device memory is.
class EmulatedTable {
 public:
  EmulatedTable(const CopyBatch& batch, const AddressTable& addresses, std::int64_t max_units)
      : builder_(max_units), size_(builder_.build(batch, addresses)) {
    memory_.resize(static_cast<std::size_t>(size_.layout.total_bytes / 16));
    builder_.write(memory(), true);
  }
  [[nodiscard]] const TableSize& size() const { return size_; }
  [[nodiscard]] BoxTable view(std::uint64_t* sums, std::int64_t units_per_block) {
    return view_table(size_, memory(), sums, units_per_block);
  }

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
