#pragma once

#include "dynatrain/geometry/box.hpp"
#include "dynatrain/geometry/view.hpp"

namespace dynatrain {

/// Whether a view that walks forward from an offset of at least 0 ends where a buffer can: offsets
/// in bytes of all elements of `box`, which is not empty, fit 64 bits.
[[nodiscard]] bool fits_a_buffer(const Box& box, const View& view);

}  // namespace dynatrain
