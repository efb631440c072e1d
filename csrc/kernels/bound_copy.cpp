#include "kernels/bound_copy.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/geometry/box.hpp"

#include <string>

namespace dynatrain {
namespace {

[[noreturn]] void throw_outside(const char* side, const CopyDescriptor& descriptor, BufferId id) {
  throw InternalError(std::string("kernels: a copy of ") + descriptor.copy.extents.to_string() +
                      " elements of " + std::to_string(descriptor.elem_bytes) +
                      " bytes would leave its " + side + " buffer " + std::to_string(id.value) +
                      "\n  nothing of its batch was written\n"
                      "  please report this as a bug of dynatrain");
}

/// One side of a copy: where it starts, and how it strides.
struct Side {
  const char* name = nullptr;
  BufferId buffer;
  std::int64_t offset_bytes = 0;
  std::int64_t offset_elems = 0;
  const Strides& strides;
};

/// The address of the copy's element 0 on one side, after checking that all elements are inside.
std::byte* bind_side(const CopyDescriptor& descriptor,
                     const Side& side,
                     const AddressTable& addresses) {
  std::int64_t first = 0;
  bool fits = !__builtin_mul_overflow(side.offset_elems, descriptor.elem_bytes, &first) &&
              !__builtin_add_overflow(first, side.offset_bytes, &first) && first >= 0;
  std::int64_t end = 0;
  fits = fits && !__builtin_add_overflow(first, descriptor.elem_bytes, &end);
  for (int d = 0; fits && d < descriptor.copy.extents.rank(); ++d) {
    const std::int64_t steps = descriptor.copy.extents[d] - 1;
    std::int64_t bytes = 0;
    fits = side.strides[d] >= 0 && !__builtin_mul_overflow(steps, side.strides[d], &bytes) &&
           !__builtin_mul_overflow(bytes, descriptor.elem_bytes, &bytes) &&
           !__builtin_add_overflow(end, bytes, &end);
  }
  const AddressTable::Region& region = addresses.region(side.buffer);
  if (!fits || end > region.size_bytes) {
    throw_outside(side.name, descriptor, side.buffer);
  }
  return region.base + first;
}

void check_descriptor(const CopyDescriptor& descriptor, const CopyBatch& batch) {
  DYNATRAIN_CHECK(descriptor.sum_slot < 0 || batch.sums != nullptr,
                  "kernels: a copy wants a sum, but its batch has no sums");
  DYNATRAIN_CHECK(
      batch.term == SumTerm::kPart || (descriptor.sum_slot >= 0 && descriptor.dst.value < 0),
      "kernels: a copy of a batch of fingerprints has a target, or no sum");
  DYNATRAIN_CHECK(descriptor.copy.extents.rank() >= 1 && descriptor.elem_bytes >= 1,
                  "kernels: a copy needs at least one dimension and elements of one byte");
}

}  // namespace

std::int64_t num_elements_of(const CopyDescriptor& descriptor) {
  return num_elements(descriptor.copy.extents);
}

BoundCopy bind_copy(const CopyDescriptor& descriptor,
                    const CopyBatch& batch,
                    const AddressTable& addresses) {
  const StridedCopy& copy = descriptor.copy;
  check_descriptor(descriptor, batch);
  BoundCopy bound{
      .descriptor = &descriptor, .src = nullptr, .dst = nullptr, .process = 0, .rank = -1};
  for (const std::int64_t extent : copy.extents.values()) {
    if (extent == 0) {
      return bound;
    }
  }
  bound.src = bind_side(descriptor,
                        {.name = "source",
                         .buffer = descriptor.src,
                         .offset_bytes = descriptor.src_offset_bytes,
                         .offset_elems = copy.src_offset_elems,
                         .strides = copy.src_strides},
                        addresses);
  bound.process = addresses.region(descriptor.src).process;
  bound.rank = addresses.region(descriptor.src).rank;
  DYNATRAIN_CHECK(bound.process == 0 || descriptor.dst.value >= 0,
                  "kernels: memory of another process was to be summed where it lies");
  if (descriptor.dst.value >= 0) {
    DYNATRAIN_CHECK(addresses.region(descriptor.dst).process == 0,
                    "kernels: memory of another process was to be written");
    bound.dst = bind_side(descriptor,
                          {.name = "target",
                           .buffer = descriptor.dst,
                           .offset_bytes = descriptor.dst_offset_bytes,
                           .offset_elems = copy.dst_offset_elems,
                           .strides = copy.dst_strides},
                          addresses);
  }
  return bound;
}

}  // namespace dynatrain
