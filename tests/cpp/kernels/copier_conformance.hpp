#pragma once

// What every Copier promises, failures included; the promises are in copier_conformance.cpp. A
// copier's own test file includes this header and instantiates CopierConformance with a CopierCase.
// Buffers are memory that test and copier both reach: the host's, for a device pinned.

#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/copier.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {

struct CopierCase {
  std::string name;
  std::function<std::unique_ptr<Copier>()> make;
  std::pmr::memory_resource* memory = std::pmr::new_delete_resource();  ///< of the buffers
  std::function<std::string()> problem = [] { return std::string(); };  ///< why it cannot run here
};

/// Element offsets of a strided region in row-major order, by plain nested counting: the oracle.
inline std::vector<std::int64_t> offsets_in_order(const Dims& extents,
                                                  std::int64_t offset,
                                                  const Strides& strides) {
  std::vector<std::int64_t> offsets{offset};
  for (int d = 0; d < extents.rank(); ++d) {
    std::vector<std::int64_t> next;
    for (const std::int64_t base : offsets) {
      for (std::int64_t i = 0; i < extents[d]; ++i) {
        next.push_back(base + i * strides[d]);
      }
    }
    offsets = std::move(next);
  }
  return offsets;
}

class CopierConformance : public ::testing::TestWithParam<CopierCase> {
 protected:
  using Bytes = std::pmr::vector<std::byte>;
  static constexpr BufferId kSrc{0};
  static constexpr BufferId kDst{1};
  static constexpr BufferId kNone{-1};

  static Deadline late() { return deadline_in(std::chrono::seconds(30)); }

  void SetUp() override {
    const std::string problem = GetParam().problem();
    if (!problem.empty()) {
      GTEST_SKIP() << problem;
    }
    former_memory_ = std::pmr::set_default_resource(GetParam().memory);
    copier_ = GetParam().make();
  }
  void TearDown() override { std::pmr::set_default_resource(former_memory_); }

  void use(Bytes& src, Bytes& dst) {
    src_ = &src;
    dst_ = &dst;
    addresses_.set(kSrc, src.data(), static_cast<std::int64_t>(src.size()));
    addresses_.set(kDst, dst.data(), static_cast<std::int64_t>(dst.size()));
  }
  Token submit(const CopyBatch& batch, std::span<const Token> after = {}) {
    return copier_->submit(batch, addresses_, after);
  }
  static Bytes noise(std::size_t size, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Bytes bytes(size);
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(random());
    }
    return bytes;
  }
  /// `count` contiguous bytes from src to dst.
  static CopyDescriptor run(std::int64_t src, std::int64_t dst, std::int64_t count) {
    CopyDescriptor copy;
    copy.src = kSrc;
    copy.dst = kDst;
    copy.copy = {.extents = {count},
                 .src_offset_elems = src,
                 .dst_offset_elems = dst,
                 .src_strides = {1},
                 .dst_strides = {1}};
    return copy;
  }
  /// Copies by the oracle, and returns the sum that the copier should report.
  static std::uint64_t expect_copy(const CopyDescriptor& copy, const Bytes& src, Bytes& dst) {
    const auto from =
        offsets_in_order(copy.copy.extents, copy.copy.src_offset_elems, copy.copy.src_strides);
    const auto to =
        offsets_in_order(copy.copy.extents, copy.copy.dst_offset_elems, copy.copy.dst_strides);
    const std::int64_t num_words = (copy.elem_bytes + 7) / 8;
    std::vector<std::uint64_t> words(from.size() * static_cast<std::size_t>(num_words));
    for (std::size_t i = 0; i < from.size(); ++i) {
      for (std::int64_t b = 0; b < copy.elem_bytes; ++b) {
        const std::byte byte =
            src.at(static_cast<std::size_t>(from[i] * copy.elem_bytes + copy.src_offset_bytes + b));
        if (copy.dst.value >= 0) {
          dst.at(static_cast<std::size_t>(to[i] * copy.elem_bytes + copy.dst_offset_bytes + b)) =
              byte;
        }
        words[i * static_cast<std::size_t>(num_words) + static_cast<std::size_t>(b / 8)] |=
            static_cast<std::uint64_t>(byte) << static_cast<unsigned>(8 * (b % 8));
      }
    }
    std::uint64_t sum = 0;
    auto index = static_cast<std::uint64_t>(copy.first_elem * num_words);
    for (const std::uint64_t bits : words) {
      sum += part_sum_term(index++, bits, copy.elem_bytes <= 4);
    }
    return sum;
  }
  /// The sum of the terms of the copy's elements, with the indices that its dst side says.
  static std::uint64_t expected_fingerprint(const CopyDescriptor& copy, const Bytes& src) {
    const auto from =
        offsets_in_order(copy.copy.extents, copy.copy.src_offset_elems, copy.copy.src_strides);
    const auto indices =
        offsets_in_order(copy.copy.extents, copy.copy.dst_offset_elems, copy.copy.dst_strides);
    const std::int64_t num_words = (copy.elem_bytes + 7) / 8;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
      for (std::int64_t word = 0; word < num_words; ++word) {
        std::uint64_t bits = 0;
        for (std::int64_t b = 8 * word; b < std::min(copy.elem_bytes, 8 * word + 8); ++b) {
          const auto at =
              static_cast<std::size_t>(from[i] * copy.elem_bytes + copy.src_offset_bytes + b);
          bits |= static_cast<std::uint64_t>(src.at(at)) << static_cast<unsigned>(8 * (b % 8));
        }
        const auto index = static_cast<std::uint64_t>(indices[i] * num_words + word);
        sum += fingerprint_term(copy.sum_key, index, bits);
      }
    }
    return sum;
  }
  /// A copy of a random box between dense buffers of 64 KiB, with dimensions in any memory order.
  static CopyDescriptor random_copy(std::int64_t elem_bytes, std::mt19937_64& random) {
    CopyDescriptor copy = run(0, 0, 1);
    copy.elem_bytes = elem_bytes;
    copy.src_offset_bytes = static_cast<std::int64_t>(random() % 5);
    copy.dst_offset_bytes = static_cast<std::int64_t>(random() % 5);
    const int rank = 1 + static_cast<int>(random() % 4);
    copy.copy.extents = Dims::filled(rank, 1);
    copy.copy.src_strides = Dims::filled(rank, 1);
    copy.copy.dst_strides = Dims::filled(rank, 1);
    for (Strides* strides : {&copy.copy.src_strides, &copy.copy.dst_strides}) {
      std::vector<int> memory_order(static_cast<std::size_t>(rank));
      std::iota(memory_order.begin(), memory_order.end(), 0);
      if (random() % 2 == 0) {
        std::shuffle(memory_order.begin(), memory_order.end(), random);
      }
      std::int64_t stride = random() % 3 == 0 ? 2 : 1;
      for (const int d : memory_order) {
        (*strides)[rank - 1 - d] = stride;
        stride *= 6;
      }
    }
    for (int d = 0; d < rank; ++d) {
      copy.copy.extents[d] = 1 + static_cast<std::int64_t>(random() % 6);
    }
    copy.copy.src_offset_elems = static_cast<std::int64_t>(random() % 50);
    copy.copy.dst_offset_elems = static_cast<std::int64_t>(random() % 50);
    return copy;
  }

  std::pmr::memory_resource* former_memory_ = nullptr;  ///< null means the default to pmr as well
  std::unique_ptr<Copier> copier_;
  AddressTable addresses_;
  Bytes* src_ = nullptr;
  Bytes* dst_ = nullptr;
};

}  // namespace dynatrain
