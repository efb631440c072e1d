#pragma once

// Words in device memory, for tests of the real NCCL.

#include "dynatrain/base/token.hpp"
#include "dynatrain/kernels/cuda_copier.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace dynatrain {

inline Deadline in_a_minute() {
  return deadline_in(std::chrono::seconds(60));
}

/// Device memory that holds `words`.
inline CudaMemory on_device(const std::vector<std::uint64_t>& words) {
  const auto size_bytes = static_cast<std::int64_t>(words.size() * sizeof(std::uint64_t));
  CudaMemory memory = allocate_cuda_memory(CudaMemoryKind::kDevice, size_bytes);
  copy_cuda_memory(memory.get(), reinterpret_cast<const std::byte*>(words.data()), size_bytes);
  return memory;
}

inline std::vector<std::uint64_t> on_host(const std::byte* memory, std::size_t num_words) {
  std::vector<std::uint64_t> words(num_words);
  copy_cuda_memory(reinterpret_cast<std::byte*>(words.data()),
                   memory,
                   static_cast<std::int64_t>(num_words * sizeof(std::uint64_t)));
  return words;
}

inline std::vector<std::uint64_t> numbers(std::size_t count, std::uint64_t first) {
  std::vector<std::uint64_t> words(count);
  std::iota(words.begin(), words.end(), first * 0x9e3779b97f4a7c15ULL);
  return words;
}

}  // namespace dynatrain
