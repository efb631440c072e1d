#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dynatrain {

/// Base addresses of one rank's buffers of the tensors of a map, by tensor id. Null for tensors
/// that this rank does not hold. Not owning.
struct TensorMemory {
  std::vector<std::byte*> base;          ///< element 0 of the rank's buffer of tensor i
  std::vector<std::int64_t> size_bytes;  ///< bytes from base that belong to it
};

}  // namespace dynatrain
