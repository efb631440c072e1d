#include <cuda_runtime.h>

#include <concepts>
#include <source_location>
#include <span>

template <std::integral Word>
__global__ void fill(Word* words, Word word) {
  words[threadIdx.x] = word;
}

int main() {
  fill<<<1, 1>>>(static_cast<int*>(nullptr), 1);
  return static_cast<int>(cudaGetLastError());
}
