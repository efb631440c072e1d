#pragma once

#include <cstddef>
#include <cstdint>

namespace dynatrain {

/// `count` elements of one width at a constant stride; the memory need not be aligned.
struct ElementRun {
  const std::byte* data = nullptr;
  std::int64_t elem_bytes = 1;
  std::int64_t stride_elems = 1;
  std::int64_t count = 0;
};

/// What a term's bits grow by from one index to the next.
inline constexpr std::uint64_t kSumStep = 0x9e3779b97f4a7c15ULL;

/// Whether elements have the term that several of them are made of at once.
[[nodiscard]] constexpr bool is_narrow(std::int64_t elem_bytes) {
  return elem_bytes <= 4;
}

/// What element `index` with the little-endian `bits` (zero-extended to 64) adds to a part's sum.
/// A part's sum is the sum of its elements' terms modulo 2^64, hence free of order and layout.
/// An element wider than 8 bytes is ceil(bytes / 8) words: word j of element i has the index
/// i * words + j. No two values of an element have the same term.
///
/// The term of a narrow element begins with the square of 32 bits: processors make products of
/// these for several elements at once, and none of 64 bits. Folded, it is linear in nothing: a sum
/// of squares alone is, in value times index, and rows of zeros and ones that changed places had
/// equal ones.
[[nodiscard]] constexpr std::uint64_t part_sum_term(std::uint64_t index,
                                                    std::uint64_t bits,
                                                    bool of_narrow) {
  const std::uint64_t salted = bits + kSumStep * (index + 1);
  const std::uint64_t low = salted & 0xffffffffU;
  const std::uint64_t x = of_narrow ? low * low : salted * 0xd6e8feb86659fd93ULL;
  return x ^ (x >> 32U);
}

/// What an element adds to a state's fingerprint; `key` stands for the tensor. More mixing than in
/// part_sum_term, as fingerprints are compared across days and layouts, sums once.
[[nodiscard]] constexpr std::uint64_t fingerprint_term(std::uint64_t key,
                                                       std::uint64_t index,
                                                       std::uint64_t bits) {
  constexpr std::uint64_t multiplier = 0xd6e8feb86659fd93ULL;
  std::uint64_t x = (bits + key + kSumStep * (index + 1)) * multiplier;
  x = (x ^ (x >> 32U)) * multiplier;
  return x ^ (x >> 32U);
}

/// What `index` grows by when it stands for the key too: fingerprint_term(key, i, bits) equals
/// fingerprint_term(0, i + fingerprint_key_offset(key), bits) modulo 2^64.
[[nodiscard]] constexpr std::uint64_t fingerprint_key_offset(std::uint64_t key) {
  std::uint64_t inverse = kSumStep;  // right in 3 bits, and in twice as many after each round
  for (int bits = 3; bits < 64; bits *= 2) {
    inverse *= 2 - kSumStep * inverse;
  }
  return key * inverse;
}

/// Adds up part_sum_term over a run whose elements have the indices first_index, first_index + 1...
/// Cost     docs/design/execution.md, "Sums": less than a copy for contiguous elements of 2 bytes
/// and
///          more, where the processor has AVX2.
[[nodiscard]] std::uint64_t part_sum_run(const ElementRun& run, std::uint64_t first_index);

/// Adds up fingerprint_term over a run, as part_sum_run does.
[[nodiscard]] std::uint64_t fingerprint_run(const ElementRun& run,
                                            std::uint64_t key,
                                            std::uint64_t first_index);

}  // namespace dynatrain
