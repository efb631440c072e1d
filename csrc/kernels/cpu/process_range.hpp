#pragma once

#include "dynatrain/geometry/box.hpp"

#include "kernels/bound_copy.hpp"

namespace dynatrain {

/// copy_range() of a source that lies in another process. Long runs go where they belong at once,
/// many to a call of the system; short ones that lie near each other are read as a block, with what
/// lies between them, and scattered.
/// Errors  as read_peer().
void copy_process_range(const BoundCopy& bound, Interval elems);

}  // namespace dynatrain
