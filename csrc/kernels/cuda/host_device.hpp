#pragma once

// Marks a function that device code and host tests both compile, and a loop whose arrays are to be
// registers.
#if defined(__CUDACC__)
#define DYNATRAIN_HOST_DEVICE __host__ __device__
#define DYNATRAIN_UNROLL _Pragma("unroll")
#else
#define DYNATRAIN_HOST_DEVICE
#define DYNATRAIN_UNROLL
#endif
