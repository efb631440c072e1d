#pragma once

#include <cstdint>
#include <string>

namespace dynatrain {

/// An element type as the planner sees it: a name to compare and a size to move. Bytes are bytes.
struct DType {
  std::string name;             ///< the framework's name, e.g. "float32", "float8_e4m3fn", "bool"
  std::int64_t size_bytes = 0;  ///< bytes of one element, >= 1

  friend bool operator==(const DType&, const DType&) = default;
};

}  // namespace dynatrain
