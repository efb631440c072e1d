#pragma once

#include "dynatrain/geometry/box.hpp"
#include "dynatrain/geometry/view.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstdint>

namespace dynatrain {

/// Calls visit(box, first_elem) for the boxes that make up a part, in row-major order.
template <class Visit>
void for_each_piece(const Part& part, Visit visit) {
  if (part.begin_elem == 0 && part.end_elem == part.box.num_elements()) {
    visit(part.box, std::int64_t{0});
    return;
  }
  std::int64_t first_elem = 0;
  for (Box& piece : flat_range_to_boxes(part.box.shape(), {part.begin_elem, part.end_elem})) {
    for (int d = 0; d < piece.rank(); ++d) {
      piece.begin[d] += part.box.begin[d];
      piece.end[d] += part.box.begin[d];
    }
    visit(piece, first_elem);
    first_elem += piece.num_elements();
  }
}

}  // namespace dynatrain
