#include "kernels/cuda/byte_box.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <bit>

namespace dynatrain {
namespace {

constexpr std::int64_t kWidest = 16;
/// A row may have partial windows at its ends when it has at least so many windows; otherwise the
/// few steps at the ends take longer than the wider accesses between them save.
constexpr std::int64_t kMinWindows = 8;

/// The largest power of two, at most kWidest, that divides a number; numbers are joined by `or`.
std::int64_t power_of_two_in(std::uint64_t joined) {
  return std::int64_t{1} << std::countr_zero(joined | static_cast<std::uint64_t>(kWidest));
}

/// All ones where the box stores what it reads; else its target side has no addresses.
std::uint64_t target_mask(const ByteBox& box) {
  return box.has_target ? ~std::uint64_t{0} : std::uint64_t{0};
}

/// Bytes that every address and stride of the box are a multiple of.
std::int64_t exact_alignment(const ByteBox& box) {
  const std::uint64_t mask = target_mask(box);
  std::uint64_t joined = box.src | (box.dst & mask);
  for (int d = 0; d < box.num_dims; ++d) {
    const ByteBox::Dim& dim = box.dims[static_cast<std::size_t>(d)];
    joined |= static_cast<std::uint64_t>(dim.src_stride_bytes) |
              (static_cast<std::uint64_t>(dim.dst_stride_bytes) & mask);
  }
  return power_of_two_in(joined);
}

/// Bytes that the distance between an element's two addresses is always a multiple of.
std::int64_t mutual_alignment(const ByteBox& box) {
  if (!box.has_target) {
    return kWidest;
  }
  std::uint64_t joined = box.src - box.dst;
  for (int d = 0; d < box.num_dims; ++d) {
    const ByteBox::Dim& dim = box.dims[static_cast<std::size_t>(d)];
    joined |= static_cast<std::uint64_t>(dim.src_stride_bytes - dim.dst_stride_bytes);
  }
  return power_of_two_in(joined);
}

/// Windows of `width` that a row may touch; of the worst row, when rows begin at different places
/// of a window.
std::int64_t windows_per_row(const ByteBox& box, std::int64_t width) {
  std::uint64_t strides = 0;
  for (int d = 0; d < box.num_dims; ++d) {
    const ByteBox::Dim& dim = box.dims[static_cast<std::size_t>(d)];
    strides |=
        static_cast<std::uint64_t>(box.has_target ? dim.dst_stride_bytes : dim.src_stride_bytes);
  }
  const bool is_same_in_every_row = power_of_two_in(strides) >= width;
  const std::int64_t last = width - 1;  // a power of two less one: no division
  const std::int64_t head = static_cast<std::int64_t>(box.has_target ? box.dst : box.src) & last;
  return ((is_same_in_every_row ? head : last) + box.run_bytes + last) >>
         std::countr_zero(static_cast<std::uint64_t>(width));
}

/// Bytes of the words that a sum is made of, or 0 when they do not follow one another densely.
std::int64_t dense_word_bytes(std::int64_t elem_bytes) {
  if (elem_bytes % 8 == 0) {
    return 8;
  }
  return elem_bytes < 8 && std::has_single_bit(static_cast<std::uint64_t>(elem_bytes)) ? elem_bytes
                                                                                       : 0;
}

UnitChoice choose_elements(const ByteBox& box, std::int64_t alignment) {
  DYNATRAIN_CHECK(box.elem_bytes < FastDivider::kLimit,
                  "kernels: elements of " + std::to_string(box.elem_bytes) +
                      " bytes are too wide for a sum on a device");
  const std::int64_t width = std::min<std::int64_t>(
      {alignment, 8, power_of_two_in(static_cast<std::uint64_t>(box.elem_bytes))});
  return {.kind = UnitKind::kElement,
          .width_bytes = width,
          .step_bytes = width,
          .word_bytes = 8,
          .units_per_row = box.run_bytes / box.elem_bytes};
}

/// Adds one more dimension outwards: to the run, to the dimension inside it, or beside them.
void add_dim(ByteBox& box, const ByteBox::Dim& dim) {
  if (dim.extent == 1) {
    return;
  }
  if (box.num_dims == 0 && dim.src_stride_bytes == box.run_bytes &&
      dim.dst_stride_bytes == box.run_bytes) {
    box.run_bytes *= dim.extent;
    return;
  }
  if (box.num_dims > 0) {
    ByteBox::Dim& inner = box.dims[static_cast<std::size_t>(box.num_dims - 1)];
    if (dim.src_stride_bytes == inner.src_stride_bytes * inner.extent &&
        dim.dst_stride_bytes == inner.dst_stride_bytes * inner.extent) {
      inner.extent *= dim.extent;
      return;
    }
  }
  box.dims[static_cast<std::size_t>(box.num_dims++)] = dim;
}

}  // namespace

std::int64_t ByteBox::num_rows() const {
  std::int64_t rows = 1;
  for (int d = 0; d < num_dims; ++d) {
    rows *= dims[static_cast<std::size_t>(d)].extent;
  }
  return rows;
}

ByteBox to_byte_box(const BoundCopy& bound, SumTerm term) {
  const CopyDescriptor& descriptor = *bound.descriptor;
  const StridedCopy& copy = descriptor.copy;
  ByteBox box;
  box.src = reinterpret_cast<std::uintptr_t>(bound.src);
  box.has_target = bound.dst != nullptr;
  box.dst = box.has_target ? reinterpret_cast<std::uintptr_t>(bound.dst) : box.src;
  box.run_bytes = descriptor.elem_bytes;
  box.elem_bytes = descriptor.elem_bytes;
  box.first_elem = descriptor.first_elem;
  box.has_sum = descriptor.sum_slot >= 0;
  const bool is_indexed = term == SumTerm::kFingerprint;
  if (is_indexed) {
    box.dst = static_cast<std::uint64_t>(copy.dst_offset_elems * descriptor.elem_bytes);
  }
  const Strides& dst_strides = box.has_target || is_indexed ? copy.dst_strides : copy.src_strides;
  std::int64_t num_bytes = descriptor.elem_bytes;
  for (int d = copy.extents.rank() - 1; d >= 0; --d) {
    DYNATRAIN_CHECK(!__builtin_mul_overflow(num_bytes, copy.extents[d], &num_bytes),
                    "kernels: a copy has more than 2^63 bytes");
    add_dim(box,
            {.extent = copy.extents[d],
             .src_stride_bytes = copy.src_strides[d] * descriptor.elem_bytes,
             .dst_stride_bytes = dst_strides[d] * descriptor.elem_bytes});
  }
  return box;
}

UnitChoice choose_units(const ByteBox& box) {
  const std::int64_t alignment = exact_alignment(box);
  const std::int64_t word = box.has_sum ? dense_word_bytes(box.elem_bytes) : 1;
  if (word == 0 || alignment < word) {
    return choose_elements(box, alignment);
  }
  // Rows that are whole windows have no partial ones.
  const std::int64_t whole =
      std::min(alignment, power_of_two_in(static_cast<std::uint64_t>(box.run_bytes)));
  std::int64_t width = mutual_alignment(box);
  while (width > whole && box.run_bytes < kMinWindows * width) {
    width /= 2;
  }
  width = std::max(width, whole);
  return {.kind = UnitKind::kWindow,
          .width_bytes = width,
          .step_bytes = whole,
          .word_bytes = word,
          .units_per_row = windows_per_row(box, width)};
}

}  // namespace dynatrain
