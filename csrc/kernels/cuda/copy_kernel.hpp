#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/box_table.hpp"
#include <cstdint>

namespace dynatrain {

struct CopyKernelArgs {
  BoxTable table;  ///< device addresses
  std::int64_t num_blocks = 0;
  TableSums sums = TableSums::kNone;
};

/// Loads the kernel on the current device: else its first launch would, in the middle of a switch.
/// Errors: DeviceError.
void load_copy_kernel();

/// Enqueues one launch that copies every box of the table. Errors: DeviceError.
void launch_copy_kernel(const CopyKernelArgs& args, cudaStream_t stream);

}  // namespace dynatrain
