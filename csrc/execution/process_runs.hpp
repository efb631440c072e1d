#pragma once

#include "dynatrain/geometry/box.hpp"

#include <cstdint>

namespace dynatrain {

/// What reading `box` out of another process costs, in bytes of contiguous memory that are read in
/// the same time. Its source lies there with `strides`, in elements of `elem_bytes`, and is read in
/// row-major order of the box: elements far apart cost a piece of a call each, or what lies between
/// them.
[[nodiscard]] std::int64_t cost_of_reading(const Box& box,
                                           const Strides& strides,
                                           std::int64_t elem_bytes);

/// Whether messages, which the owner packs, would bring `bytes` in less time than reads of `cost`.
[[nodiscard]] bool are_messages_faster(std::int64_t cost, std::int64_t bytes);

}  // namespace dynatrain
