#pragma once

#include <cstddef>

namespace dynatrain {

// What is used of CUDA's runtime, as its manual has it for versions 12 and 13, so that no header of
// CUDA is needed. Enumerations are int; tests/cpp/transport/declarations_test.cpp compares all of
// it with the headers where they can be compiled.

using CudaStatus = int;
using CudaStream = void*;
using CudaEvent = void*;

inline constexpr CudaStatus kCudaSuccess = 0;
inline constexpr CudaStatus kCudaNotReady = 600;
inline constexpr unsigned int kCudaStreamNonBlocking = 1;
inline constexpr unsigned int kCudaEventWithoutTiming = 2;
inline constexpr int kCudaMemoryUnregistered = 0;

/// CUDA 13 fills all of it; CUDA 12 stops before `reserved`.
struct CudaPointerAttributes {
  int type = 0;
  int device = 0;
  void* device_pointer = nullptr;
  void* host_pointer = nullptr;
  long reserved[8] = {};  // NOLINT(google-runtime-int): CUDA's
};

/// The functions of the runtime, and one of the driver, looked up when the program runs.
struct CudaCalls {
  const char* (*get_error_string)(CudaStatus status) = nullptr;
  CudaStatus (*get_device)(int* device) = nullptr;
  CudaStatus (*set_device)(int device) = nullptr;
  CudaStatus (*priority_range)(int* least, int* greatest) = nullptr;
  CudaStatus (*stream_create)(CudaStream* stream, unsigned int flags, int priority) = nullptr;
  CudaStatus (*stream_destroy)(CudaStream stream) = nullptr;
  CudaStatus (*stream_wait_event)(CudaStream stream, CudaEvent event, unsigned int flags) = nullptr;
  CudaStatus (*event_create)(CudaEvent* event, unsigned int flags) = nullptr;
  CudaStatus (*event_destroy)(CudaEvent event) = nullptr;
  CudaStatus (*event_record)(CudaEvent event, CudaStream stream) = nullptr;
  CudaStatus (*event_query)(CudaEvent event) = nullptr;
  CudaStatus (*pointer_get_attributes)(CudaPointerAttributes* found, const void* data) = nullptr;
  CudaStatus (*memset_async)(void* data, int value, std::size_t size, CudaStream stream) = nullptr;
  int (*driver_get_current)(void** context) = nullptr;  ///< cuCtxGetCurrent
};

}  // namespace dynatrain
