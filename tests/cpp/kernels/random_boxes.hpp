#pragma once

#include "dynatrain/execution/copier.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

namespace dynatrain {

/// Copies between two buffers, regular and random ones.
class RandomBoxes {
 protected:
  static constexpr BufferId kSrc{0};
  static constexpr BufferId kDst{1};
  static constexpr BufferId kNone{-1};
  static constexpr int kNumSums = 7;

  /// `count` elements in a run.
  static CopyDescriptor run(std::int64_t elem_bytes, std::int64_t count) {
    CopyDescriptor copy;
    copy.src = kSrc;
    copy.dst = kDst;
    copy.elem_bytes = elem_bytes;
    copy.copy = {.extents = {count},
                 .src_offset_elems = 0,
                 .dst_offset_elems = 0,
                 .src_strides = {1},
                 .dst_strides = {1}};
    return copy;
  }
  /// Rows of `count` elements, `stride` elements apart in both buffers.
  static CopyDescriptor rows(std::int64_t elem_bytes,
                             std::int64_t num_rows,
                             std::int64_t count,
                             std::int64_t stride) {
    CopyDescriptor copy = run(elem_bytes, count);
    copy.copy.extents = {num_rows, count};
    copy.copy.src_strides = {stride, 1};
    copy.copy.dst_strides = {stride, 1};
    return copy;
  }
  /// The box as a part of a tensor that is fingerprinted: its dst side is indices.
  static CopyDescriptor fingerprinted(CopyDescriptor box, std::mt19937_64& random) {
    box.dst = kNone;
    box.sum_slot = static_cast<int>(pick(random, {0, 1, 2, kNumSums - 1}));
    box.sum_key = random();
    box.copy.dst_offset_elems = static_cast<std::int64_t>(random() % 100000);
    return box;
  }
  static std::int64_t pick(std::mt19937_64& random, std::initializer_list<std::int64_t> values) {
    return values.begin()[random() % values.size()];
  }
  /// Gives one side of a box of `extents` dense strides in a random memory order, with gaps.
  static std::int64_t random_strides(const Dims& extents,
                                     Strides& strides,
                                     std::mt19937_64& random) {
    std::vector<int> order(static_cast<std::size_t>(extents.rank()));
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<int>(order.size() - 1 - i);
    }
    if (random() % 3 == 0) {
      std::shuffle(order.begin(), order.end(), random);
    }
    strides = Dims::filled(extents.rank(), 1);
    std::int64_t stride = random() % 5 == 0 ? 2 : 1;
    for (const int d : order) {
      strides[d] = stride;
      stride *= extents[d] + pick(random, {0, 0, 1, 8});
    }
    return stride;
  }
  /// A random box that lies in [begin, begin + room) of both buffers.
  static CopyDescriptor random_box(std::int64_t begin, std::int64_t room, std::mt19937_64& random) {
    while (true) {
      CopyDescriptor copy = run(pick(random, {1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 33}), 1);
      const int rank = static_cast<int>(pick(random, {1, 1, 2, 2, 3, 4, 8}));
      copy.copy.extents = Dims::filled(rank, 1);
      for (int d = 0; d < rank; ++d) {
        copy.copy.extents[d] = pick(random, {1, 2, 3, 7, 8, 16, 31, 64, 127, 256});
      }
      if (random() % 20 == 0) {
        copy.copy.extents[0] = 0;
      }
      copy.src_offset_bytes = begin + pick(random, {0, 0, 1, 2, 3, 4, 8, 13, 16});
      copy.dst_offset_bytes = begin + pick(random, {0, 0, 1, 2, 3, 4, 8, 13, 16});
      if (random() % 2 == 0) {
        copy.dst_offset_bytes = copy.src_offset_bytes;
      }
      const std::int64_t src_elems =
          random_strides(copy.copy.extents, copy.copy.src_strides, random);
      std::int64_t dst_elems = src_elems;
      copy.copy.dst_strides = copy.copy.src_strides;
      if (random() % 2 == 0) {
        dst_elems = random_strides(copy.copy.extents, copy.copy.dst_strides, random);
      }
      if (std::max(src_elems, dst_elems) * 2 * copy.elem_bytes + 16 > room) {
        continue;
      }
      copy.sum_slot = static_cast<int>(pick(random, {-1, -1, 0, 1, 2, 3, kNumSums - 1}));
      copy.first_elem = static_cast<std::int64_t>(random() % 100000);
      if (copy.sum_slot >= 0 && random() % 4 == 0) {
        copy.dst = kNone;
      }
      return copy;
    }
  }
};

}  // namespace dynatrain
