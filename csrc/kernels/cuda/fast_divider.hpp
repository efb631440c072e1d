#pragma once

#include "kernels/cuda/host_device.hpp"
#include <bit>
#include <cstdint>

namespace dynatrain {

/// Divides numbers below kLimit by a divisor in [1, kLimit] with one multiplication.
/// Source   Granlund and Montgomery, "Division by invariant integers using multiplication",
///          section 4, with the sum kept within 32 bits by the limit.
struct FastDivider {
  static constexpr std::uint32_t kLimit = 1U << 31U;

  std::uint32_t divisor = 1;
  std::uint32_t magic = 1;
  std::uint32_t shift = 0;

  [[nodiscard]] static constexpr FastDivider of(std::uint32_t divisor) {
    const auto shift = static_cast<std::uint32_t>(std::bit_width(divisor - 1U));
    const std::uint64_t excess = (std::uint64_t{1} << shift) - divisor;
    if (excess == 0) {  // a power of two, and often: no division
      return {.divisor = divisor, .magic = 1, .shift = shift};
    }
    return {.divisor = divisor,
            .magic = static_cast<std::uint32_t>((excess << 32U) / divisor + 1),
            .shift = shift};
  }
  [[nodiscard]] DYNATRAIN_HOST_DEVICE constexpr std::uint32_t divide(std::uint32_t n) const {
    const auto high = static_cast<std::uint32_t>((static_cast<std::uint64_t>(n) * magic) >> 32U);
    return (high + n) >> shift;
  }
};

}  // namespace dynatrain
