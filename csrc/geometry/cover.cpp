#include "dynatrain/geometry/box.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace dynatrain {
namespace {

using BoxRefs = std::vector<const Box*>;

/// True when `box` covers `rest` in dimension `dim` and all later ones.
bool covers_from(const Box& box, const Box& rest, int dim) {
  for (int d = dim; d < rest.rank(); ++d) {
    if (box.begin[d] > rest.begin[d] || box.end[d] < rest.end[d]) {
      return false;
    }
  }
  return true;
}

/// The places in [rest.begin, rest.end] of dimension `dim` where a box begins or ends, ascending,
/// both ends of `rest` included.
std::vector<std::int64_t> cut_points(const Box& rest, const BoxRefs& boxes, int dim) {
  std::vector<std::int64_t> cuts{rest.begin[dim], rest.end[dim]};
  for (const Box* box : boxes) {
    for (const std::int64_t cut : {box->begin[dim], box->end[dim]}) {
      if (cut > rest.begin[dim] && cut < rest.end[dim]) {
        cuts.push_back(cut);
      }
    }
  }
  std::ranges::sort(cuts);
  const auto repeats = std::ranges::unique(cuts);
  cuts.erase(repeats.begin(), repeats.end());
  return cuts;
}

/// Joins `pieces` to `holes`, lengthening what `previous` left open at the same place of the
/// later dimensions, so that one long hole is reported as one box.
void append_pieces(std::vector<Box>& holes,
                   std::vector<Box> pieces,
                   std::size_t previous,
                   int dim) {
  const std::span<Box> last = std::span(holes).subspan(previous);
  const bool continues =
      !pieces.empty() && std::ranges::equal(last, pieces, [dim](const Box& a, const Box& b) {
        Box moved = b;
        moved.begin[dim] = a.begin[dim];
        moved.end[dim] = a.end[dim];
        return moved == a && a.end[dim] == b.begin[dim];
      });
  if (continues) {
    for (Box& box : last) {
      box.end[dim] = pieces.front().end[dim];
    }
    return;
  }
  holes.insert(holes.end(), pieces.begin(), pieces.end());
}

/// What `boxes` leave uncovered of `rest`; all of them cover `rest` in the dimensions before `dim`.
std::vector<Box> sweep(const Box& rest, BoxRefs boxes, int dim) {
  for (const Box* box : boxes) {
    if (covers_from(*box, rest, dim)) {
      return {};
    }
  }
  if (boxes.empty() || dim == rest.rank()) {
    return {rest};
  }
  std::ranges::sort(boxes, {}, [dim](const Box* box) { return box->begin[dim]; });
  const std::vector<std::int64_t> cuts = cut_points(rest, boxes, dim);
  std::vector<Box> holes;
  BoxRefs active;
  std::size_t next = 0;
  std::size_t previous = 0;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    std::erase_if(active, [&](const Box* box) { return box->end[dim] <= cuts[i]; });
    for (; next < boxes.size() && boxes[next]->begin[dim] <= cuts[i]; ++next) {
      active.push_back(boxes[next]);
    }
    Box slab = rest;
    slab.begin[dim] = cuts[i];
    slab.end[dim] = cuts[i + 1];
    std::vector<Box> pieces = sweep(slab, active, dim + 1);
    const std::size_t former = holes.size();
    append_pieces(holes, std::move(pieces), previous, dim);
    previous = holes.size() == former ? previous : former;
  }
  return holes;
}

}  // namespace

std::vector<Box> uncovered(const Box& whole, std::span<const Box> boxes) {
  if (whole.empty()) {
    return {};
  }
  BoxRefs inside;
  for (const Box& box : boxes) {
    if (intersect(whole, box)) {
      inside.push_back(&box);
    }
  }
  std::vector<Box> holes = sweep(whole, std::move(inside), 0);
  std::ranges::sort(holes);
  return holes;
}

std::optional<BoxPair> first_overlap(std::span<const Box> boxes) {
  std::vector<Box> sorted;
  std::ranges::copy_if(boxes, std::back_inserter(sorted), [](const Box& b) { return !b.empty(); });
  std::ranges::sort(sorted);
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    for (std::size_t j = i + 1; j < sorted.size(); ++j) {
      const bool is_apart = sorted[i].rank() > 0 && sorted[j].begin[0] >= sorted[i].end[0];
      if (is_apart) {
        break;
      }
      if (intersect(sorted[i], sorted[j])) {
        return BoxPair{sorted[i], sorted[j]};
      }
    }
  }
  return std::nullopt;
}

}  // namespace dynatrain
