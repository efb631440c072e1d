#include "kernels/cpu/strided_range.hpp"

#include "kernels/cpu/for_each_run.hpp"
#include "kernels/cpu/process_range.hpp"
#include <array>
#include <cstring>

namespace dynatrain {
namespace {

/// 16 bytes that move as one.
struct Wide {
  std::array<std::uint64_t, 2> words{};
};

template <class Word>
void copy_strided(const BoundCopy& bound, Interval elems) {
  const StridedCopy& copy = bound.descriptor->copy;
  constexpr auto word_size = static_cast<std::int64_t>(sizeof(Word));
  const std::int64_t src_step = copy.src_strides[copy.extents.rank() - 1] * word_size;
  const std::int64_t dst_step = copy.dst_strides[copy.extents.rank() - 1] * word_size;
  for_each_run(copy, elems, [&](auto src_elems, auto dst_elems, auto count, auto) {
    const std::byte* src = bound.src + src_elems * word_size;
    std::byte* dst = bound.dst + dst_elems * word_size;
    for (std::int64_t i = 0; i < count; ++i) {
      Word word{};
      std::memcpy(&word, src + i * src_step, sizeof(Word));
      std::memcpy(dst + i * dst_step, &word, sizeof(Word));
    }
  });
}

void copy_strided_any(const BoundCopy& bound, Interval elems) {
  const StridedCopy& copy = bound.descriptor->copy;
  const std::int64_t size = bound.descriptor->elem_bytes;
  const int last = copy.extents.rank() - 1;
  for_each_run(copy, elems, [&](auto src_elems, auto dst_elems, auto count, auto) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(bound.dst + (dst_elems + i * copy.dst_strides[last]) * size,
                  bound.src + (src_elems + i * copy.src_strides[last]) * size,
                  static_cast<std::size_t>(size));
    }
  });
}

void copy_contiguous(const BoundCopy& bound, Interval elems) {
  const std::int64_t size = bound.descriptor->elem_bytes;
  for_each_run(
      bound.descriptor->copy, elems, [&](auto src_elems, auto dst_elems, auto count, auto) {
        std::memcpy(bound.dst + dst_elems * size,
                    bound.src + src_elems * size,
                    static_cast<std::size_t>(count * size));
      });
}

}  // namespace

void copy_range(const BoundCopy& bound, Interval elems) {
  if (bound.process != 0) {
    return copy_process_range(bound, elems);
  }
  const StridedCopy& copy = bound.descriptor->copy;
  const int last = copy.extents.rank() - 1;
  if (copy.src_strides[last] == 1 && copy.dst_strides[last] == 1) {
    copy_contiguous(bound, elems);
    return;
  }
  switch (bound.descriptor->elem_bytes) {
    case 1:
      return copy_strided<std::uint8_t>(bound, elems);
    case 2:
      return copy_strided<std::uint16_t>(bound, elems);
    case 4:
      return copy_strided<std::uint32_t>(bound, elems);
    case 8:
      return copy_strided<std::uint64_t>(bound, elems);
    case 16:
      return copy_strided<Wide>(bound, elems);
    default:
      return copy_strided_any(bound, elems);
  }
}

std::uint64_t sum_range(const BoundCopy& bound, Interval elems) {
  const CopyDescriptor& descriptor = *bound.descriptor;
  const bool from_dst = bound.dst != nullptr;
  const std::byte* base = from_dst ? bound.dst : bound.src;
  const Strides& strides = from_dst ? descriptor.copy.dst_strides : descriptor.copy.src_strides;
  std::uint64_t sum = 0;
  for_each_run(
      descriptor.copy, elems, [&](auto src_elems, auto dst_elems, auto count, std::int64_t at) {
        const std::int64_t offset = from_dst ? dst_elems : src_elems;
        sum += part_sum_run({.data = base + offset * descriptor.elem_bytes,
                             .elem_bytes = descriptor.elem_bytes,
                             .stride_elems = strides[strides.rank() - 1],
                             .count = count},
                            static_cast<std::uint64_t>(descriptor.first_elem + at));
      });
  return sum;
}

std::uint64_t fingerprint_range(const BoundCopy& bound, Interval elems) {
  const CopyDescriptor& descriptor = *bound.descriptor;
  const StridedCopy& copy = descriptor.copy;
  const int last = copy.extents.rank() - 1;
  const std::int64_t index_step = copy.dst_strides[last];
  std::uint64_t sum = 0;
  for_each_run(copy, elems, [&](auto src_elems, auto index, auto count, auto) {
    ElementRun run{.data = bound.src + src_elems * descriptor.elem_bytes,
                   .elem_bytes = descriptor.elem_bytes,
                   .stride_elems = copy.src_strides[last],
                   .count = index_step == 1 ? count : 1};
    for (std::int64_t at = 0; at < count; at += run.count) {
      sum += fingerprint_run(
          run,
          descriptor.sum_key,
          static_cast<std::uint64_t>(copy.dst_offset_elems + index + at * index_step));
      run.data += run.stride_elems * descriptor.elem_bytes;
    }
  });
  return sum;
}

}  // namespace dynatrain
