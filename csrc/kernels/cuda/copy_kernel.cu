#include "kernels/cuda/check.hpp"
#include "kernels/cuda/copy_body.hpp"
#include "kernels/cuda/copy_kernel.hpp"

namespace dynatrain {
namespace {

using Atomic = unsigned long long;  // the type that atomicAdd is declared with

constexpr unsigned kWholeWarp = 0xffffffffU;
constexpr int kWarpSize = 32;
/// Leaves each thread enough registers for what it has in flight; two blocks have enough under way.
constexpr int kMinBlocksPerProcessor = 2;
/// Sums of groups that a block collects before it adds them to memory; the sums of further groups
/// (many tiny parts in one block) are added to memory by each thread.
constexpr std::uint32_t kGroupsPerBlock = 64;

template <int kWidth>
struct AccessType;
template <>
struct AccessType<1> {
  using Type = std::uint8_t;
};
template <>
struct AccessType<2> {
  using Type = std::uint16_t;
};
template <>
struct AccessType<4> {
  using Type = std::uint32_t;
};
template <>
struct AccessType<8> {
  using Type = std::uint64_t;
};

/// Sums of the groups from `first` on, gathered by a block in shared memory.
struct BlockSums {
  const BoxTable* table;
  Atomic* shared;
  std::uint32_t first;

  __device__ void add(std::uint32_t group, std::uint64_t sum) const {
    if (sum == 0) {
      return;
    }
    if (group - first < kGroupsPerBlock) {
      atomicAdd(&shared[group - first], sum);
    } else {
      add_to_memory(group, sum);
    }
  }
  __device__ void add_to_memory(std::uint32_t group, std::uint64_t sum) const {
    atomicAdd(reinterpret_cast<Atomic*>(table->sums + table->group_sums[group]), sum);
  }
};

/// One thread's accesses, and its sum of the group it is in. What is copied passes by the first
/// cache, which is left to the table.
template <TableSums kTableSums>
class DeviceMachine {
 public:
  static constexpr TableSums kSums = kTableSums;

  __device__ explicit DeviceMachine(BlockSums sums) : sums_(sums), group_(sums.first) {}

  template <int kWidth>
  __device__ Bits load(std::uint64_t address) const {
    if constexpr (kWidth == 16) {
      const ulonglong2 both = __ldcg(reinterpret_cast<const ulonglong2*>(address));
      return {.low = both.x, .high = both.y};
    } else {
      return {.low = __ldcg(reinterpret_cast<const typename AccessType<kWidth>::Type*>(address))};
    }
  }
  template <int kWidth>
  __device__ void store(std::uint64_t address, Bits bits) const {
    if constexpr (kWidth == 16) {
      __stcg(reinterpret_cast<ulonglong2*>(address), make_ulonglong2(bits.low, bits.high));
    } else {
      using Type = typename AccessType<kWidth>::Type;
      __stcg(reinterpret_cast<Type*>(address), static_cast<Type>(bits.low));
    }
  }
  __device__ void add(std::uint32_t group, std::uint64_t term) {
    if (group != group_) {
      sums_.add(group_, sum_);
      group_ = group;
      sum_ = 0;
    }
    sum_ += term;
  }
  /// Called by all threads of a block together: a warp that is in one group adds once.
  __device__ void finish() {
    int is_same = 0;
    __match_all_sync(kWholeWarp, group_, &is_same);
    if (is_same == 0) {
      sums_.add(group_, sum_);
      return;
    }
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      sum_ += __shfl_down_sync(kWholeWarp, sum_, distance);
    }
    if (threadIdx.x % kWarpSize == 0) {
      sums_.add(group_, sum_);
    }
  }

 private:
  BlockSums sums_;
  std::uint32_t group_;
  std::uint64_t sum_ = 0;
};

template <TableSums kTableSums>
__global__ void __launch_bounds__(kThreadsPerBlock, kMinBlocksPerProcessor)
    copy_boxes(const BoxTable table) {
  constexpr bool kSums = kTableSums != TableSums::kNone;
  __shared__ Atomic group_sums[kSums ? kGroupsPerBlock : 1];
  if constexpr (kSums) {
    if (threadIdx.x < kGroupsPerBlock) {
      group_sums[threadIdx.x] = 0;
    }
    __syncthreads();
  }
  const BlockWork work = find_block_work(table, blockIdx.x);
  const std::uint32_t first_group = kSums ? table.boxes[work.first_box].sum_group : 0;
  const BlockSums sums{&table, group_sums, first_group};
  DeviceMachine<kTableSums> machine(sums);
  run_thread(table, work, {.index = threadIdx.x, .num_workers = blockDim.x}, machine);
  if constexpr (kSums) {
    machine.finish();
    __syncthreads();
    if (threadIdx.x < kGroupsPerBlock && group_sums[threadIdx.x] != 0) {
      sums.add_to_memory(first_group + threadIdx.x, group_sums[threadIdx.x]);
    }
  }
}

const void* kernel_for(TableSums sums) {
  switch (sums) {
    case TableSums::kNone:
      return reinterpret_cast<const void*>(&copy_boxes<TableSums::kNone>);
    case TableSums::kParts:
      return reinterpret_cast<const void*>(&copy_boxes<TableSums::kParts>);
    case TableSums::kFingerprints:
      break;
  }
  return reinterpret_cast<const void*>(&copy_boxes<TableSums::kFingerprints>);
}

}  // namespace

void load_copy_kernel() {
  for (const TableSums sums : {TableSums::kNone, TableSums::kParts, TableSums::kFingerprints}) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel_for(sums)), "loading the copy kernel");
  }
}

void launch_copy_kernel(const CopyKernelArgs& args, cudaStream_t stream) {
  BoxTable table = args.table;
  void* arguments[] = {&table};
  // The call's own status: the last error of the thread may be somebody else's.
  check(cudaLaunchKernel(kernel_for(args.sums),
                         dim3(static_cast<unsigned>(args.num_blocks)),
                         dim3(kThreadsPerBlock),
                         arguments,
                         0,
                         stream),
        "launching the copy kernel");
}

}  // namespace dynatrain
