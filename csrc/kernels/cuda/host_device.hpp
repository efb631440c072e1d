#pragma once

// Marks a function that device code and host tests both compile, and a loop whose arrays are to be
// registers, or whose code is to be short.
#if defined(__CUDACC__)
#define DYNATRAIN_HOST_DEVICE __host__ __device__
#define DYNATRAIN_UNROLL _Pragma("unroll")
#define DYNATRAIN_NO_UNROLL _Pragma("unroll 1")
#else
#define DYNATRAIN_HOST_DEVICE
#define DYNATRAIN_UNROLL
#define DYNATRAIN_NO_UNROLL
#endif
