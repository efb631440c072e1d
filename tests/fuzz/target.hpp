#pragma once

#include "dynatrain/base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// What every fuzz target is made of: seeds, and one run over the bytes of one input. A target is
/// linked with libFuzzer, or with replay.cpp where the compiler has none.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace dynatrain::fuzz {

/// Inputs that the target reads to their end; others are made of them.
[[nodiscard]] std::vector<std::string> seeds();

/// The bytes of one input.
[[nodiscard]] inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// A claim that an input has broken. Nobody catches it below main().
struct Broken {
  std::string claim;
};

inline void expect(bool holds, const std::string& claim) {
  if (!holds) {
    throw Broken{claim};
  }
}

/// Whether `call` came to its end. What is refused is refused by an error that blames the input:
/// InternalError, and errors of others, end the process.
template <class Call>
[[nodiscard]] bool is_taken(const Call& call) {
  try {
    call();
    return true;
  } catch (const LayoutError&) {
    return false;
  } catch (const BudgetError&) {
    return false;
  } catch (const TransportError&) {
    return false;
  }
}

/// Takes numbers off the front of an input; behind its end all are the least.
class Draws {
 public:
  explicit Draws(std::string_view bytes) : rest_(bytes) {}

  [[nodiscard]] bool is_over() const { return rest_.empty(); }
  /// One byte for up to 256 values, else eight.
  [[nodiscard]] std::int64_t number(std::int64_t least, std::int64_t most) {
    const auto span = static_cast<std::uint64_t>(most) - static_cast<std::uint64_t>(least);
    std::uint64_t drawn = 0;
    for (std::size_t left = span < 256 ? 1 : sizeof(drawn); left > 0 && !is_over(); --left) {
      drawn = drawn << 8U | static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
    }
    if (span == ~std::uint64_t{0}) {
      return static_cast<std::int64_t>(drawn);
    }
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(least) + drawn % (span + 1));
  }
  [[nodiscard]] int small(int least, int most) { return static_cast<int>(number(least, most)); }
  [[nodiscard]] bool one_in(int n) { return number(1, n) == n; }
  /// Up to the next `end`, which is taken too.
  [[nodiscard]] std::string_view until(char end) {
    const std::string_view word = rest_.substr(0, rest_.find(end));
    rest_.remove_prefix(word.size() < rest_.size() ? word.size() + 1 : word.size());
    return word;
  }
  [[nodiscard]] std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace dynatrain::fuzz
