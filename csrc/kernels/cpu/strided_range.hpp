#pragma once

#include "dynatrain/geometry/box.hpp"

#include "kernels/bound_copy.hpp"
#include <cstdint>

namespace dynatrain {

/// Copies the elements `elems` of the copy's row-major order; contiguous runs by memcpy, others by
/// loops over elements of a known size.
void copy_range(const BoundCopy& bound, Interval elems);

/// The part sum of the elements `elems`, read from dst, or from src where there is no dst.
[[nodiscard]] std::uint64_t sum_range(const BoundCopy& bound, Interval elems);

/// The fingerprint terms of the elements `elems`, read from src and indexed by the dst side.
[[nodiscard]] std::uint64_t fingerprint_range(const BoundCopy& bound, Interval elems);

}  // namespace dynatrain
