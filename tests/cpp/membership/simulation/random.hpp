#pragma once

#include "dynatrain/base/hash.hpp"

#include <cstdint>

namespace dynatrain::membership::simulation {

/// Draws numbers; equal seeds draw equal ones on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix64(seed + 0x9e3779b97f4a7c15ULL)) {}

  [[nodiscard]] std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    return mix64(state_);
  }
  /// A number of [first, last].
  [[nodiscard]] std::int64_t between(std::int64_t first, std::int64_t last) {
    const auto size = static_cast<std::uint64_t>(last - first) + 1;
    return first + static_cast<std::int64_t>(next() % size);
  }
  [[nodiscard]] bool percent(int chance) { return between(0, 99) < chance; }

 private:
  std::uint64_t state_;
};

}  // namespace dynatrain::membership::simulation
