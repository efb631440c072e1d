#pragma once

#include <cstdint>
#include <string_view>

namespace dynatrain {

/// Mixes 64 bits so that every input bit changes about half of the output bits (bijective).
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  x ^= x >> 32;
  return x;
}

/// An order-dependent 64-bit digest of the values fed to it; equal on every machine and build.
class Hasher {
 public:
  constexpr void add(std::uint64_t value) {
    state_ = mix64(state_ ^ (value + 0x9e3779b97f4a7c15ULL + (count_ << 1U)));
    ++count_;
  }
  constexpr void add(std::int64_t value) { add(static_cast<std::uint64_t>(value)); }
  constexpr void add(int value) { add(static_cast<std::int64_t>(value)); }
  constexpr void add(std::string_view text) {
    add(static_cast<std::uint64_t>(text.size()));
    for (const char c : text) {
      add(static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
    }
  }
  [[nodiscard]] constexpr std::uint64_t digest() const { return mix64(state_ + count_); }

 private:
  std::uint64_t state_ = 0x2545f4914f6cdd1dULL;
  std::uint64_t count_ = 0;
};

}  // namespace dynatrain
