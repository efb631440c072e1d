#pragma once

#include "dynatrain/kernels/cuda_copier.hpp"

#include <gtest/gtest.h>

#include <string>

/// Ends a test of a suite named Gpu... where there is no GPU: skipped, with CUDA's reason.
#define DYNATRAIN_NEEDS_GPU()                                     \
  do {                                                            \
    const std::string no_gpu_because = dynatrain::cuda_problem(); \
    if (!no_gpu_because.empty()) {                                \
      GTEST_SKIP() << "needs a GPU: " << no_gpu_because;          \
    }                                                             \
  } while (false)
