#pragma once

#include "dynatrain/base/error.hpp"

#include <cstdint>

namespace dynatrain {

/// Returns a * b. Errors: LayoutError when the product does not fit 64 bits.
[[nodiscard]] inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) {
    throw LayoutError("base: " + std::to_string(a) + " * " + std::to_string(b) +
                      " does not fit 64 bits\n  nothing was moved");
  }
  return out;
}

/// Returns a + b. Errors: LayoutError when the sum does not fit 64 bits.
[[nodiscard]] inline std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_add_overflow(a, b, &out)) {
    throw LayoutError("base: " + std::to_string(a) + " + " + std::to_string(b) +
                      " does not fit 64 bits\n  nothing was moved");
  }
  return out;
}

/// Returns ceil(a / b) for a >= 0, b > 0.
[[nodiscard]] constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a / b + static_cast<std::int64_t>(a % b != 0);
}

}  // namespace dynatrain
