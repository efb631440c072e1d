#include "dynatrain/layout/placement.hpp"

#include "dynatrain/base/checked.hpp"

#include "layout/cut.hpp"
#include "layout/describe.hpp"
#include <algorithm>
#include <utility>

namespace dynatrain {
namespace {

std::int64_t length_of(const DimIntervals& intervals) {
  std::int64_t length = 0;
  for (const Interval& interval : intervals) {
    length += interval.size();
  }
  return length;
}

/// Part `index` of `parts` of `whole`, as torch.chunk cuts: ceil(size / parts) each while it lasts.
Interval chunk(Interval whole, std::int64_t parts, std::int64_t index) {
  const std::int64_t size = ceil_div(whole.size(), parts);
  const std::int64_t begin = std::min(index * size, whole.size());
  return {whole.begin + begin, whole.begin + std::min(begin + size, whole.size())};
}

/// Appends what local indices [wanted.begin, wanted.end) of `from` are, joining neighbours.
void append_slice(DimIntervals& out, const DimIntervals& from, Interval wanted) {
  std::int64_t local_begin = 0;
  for (const Interval& interval : from) {
    const std::int64_t shift = interval.begin - local_begin;
    const Interval part{std::max(wanted.begin, local_begin) + shift,
                        std::min(wanted.end + shift, interval.end)};
    local_begin += interval.size();
    if (part.empty()) {
      continue;
    }
    if (!out.empty() && out.back().end == part.begin) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
  }
}

/// One cut of a dimension: `parts` shares, the own one is `index`.
struct Cut {
  int dim = 0;
  std::int64_t pieces = 1;  ///< each cut into `parts`; 1 for a plain shard
  int parts = 1;
  int index = 0;
};

DimIntervals apply_cut(const Cut& cut, const DimIntervals& held) {
  DimIntervals out;
  const Interval whole{0, length_of(held)};
  for (std::int64_t i = 0; i < cut.pieces; ++i) {
    const Interval piece = chunk(whole, cut.pieces, i);
    if (piece.empty()) {
      break;
    }
    append_slice(out, held, chunk(piece, cut.parts, cut.index));
  }
  return out;
}

/// The cuts in the order in which they apply: as the mesh dimensions stand, but a strided shard
/// that stands for "cut after the later ones" behind them.
std::vector<Cut> ordered_cuts(std::span<const int> mesh_shape,
                              std::span<const int> coordinate,
                              std::span<const Placement> placements) {
  std::vector<Cut> cuts;
  for (std::size_t i = placements.size(); i-- > 0;) {
    const Placement& placement = placements[i];
    if (placement.kind == Placement::Kind::kReplicate) {
      continue;
    }
    std::int64_t later_parts = 1;
    for (const Cut& cut : cuts) {
      later_parts *= cut.dim == placement.dim ? cut.parts : 1;
    }
    const bool is_strided = placement.split_factor > 1;
    const bool is_applied_last = is_strided && placement.split_factor == later_parts;
    const Cut cut{
        placement.dim, is_applied_last ? 1 : placement.split_factor, mesh_shape[i], coordinate[i]};
    cuts.insert(is_applied_last ? cuts.end() : cuts.begin(), cut);
  }
  return cuts;
}

}  // namespace

std::string cut_misfit(const Shape& shape,
                       std::span<const int> mesh_shape,
                       std::span<const Placement> placements) {
  if (placements.size() != mesh_shape.size()) {
    return "there are " + std::to_string(placements.size()) + " placements for a mesh of " +
           std::to_string(mesh_shape.size()) + " dimensions";
  }
  std::int64_t num_pieces = 1;
  for (const Placement& placement : placements) {
    if (placement.kind == Placement::Kind::kReplicate) {
      continue;
    }
    if (placement.dim < 0 || placement.dim >= shape.rank()) {
      return "placements " + describe(placements) + " cut dimension " +
             std::to_string(placement.dim) + " of a tensor of shape " + shape.to_string();
    }
    if (placement.split_factor < 1 || placement.split_factor > kMaxSplitFactor) {
      return "split_factor " + std::to_string(placement.split_factor) + " is not in [1, " +
             std::to_string(kMaxSplitFactor) + "]";
    }
    num_pieces *= placement.split_factor;
    if (num_pieces > kMaxSplitFactor) {  // before the next factor is as large again
      return "placements " + describe(placements) + " cut a tensor into more than " +
             std::to_string(kMaxSplitFactor) + " pieces";
    }
  }
  return {};
}

void Mesh::check() const {
  std::int64_t size = 1;
  for (const int extent : shape) {
    size = extent < 1 ? -1 : checked_mul(size, extent);
    if (size < 0 || std::cmp_greater(size, ranks.size())) {
      break;
    }
  }
  if (!std::cmp_equal(size, ranks.size())) {
    refuse_map("cannot use " + describe(*this),
               "its shape does not have " + std::to_string(ranks.size()) + " places",
               "list every rank once, row-major, and no dimension below 1");
  }
  std::vector<int> sorted = ranks;
  std::ranges::sort(sorted);
  if (const auto twin = std::ranges::adjacent_find(sorted); twin != sorted.end()) {
    refuse_map("cannot use " + describe(*this),
               "rank " + std::to_string(*twin) + " is listed twice",
               "list every rank once");
  }
  if (!sorted.empty() && sorted.front() < 0) {
    refuse_map("cannot use " + describe(*this), "a rank is negative", "number ranks from 0");
  }
}

std::vector<int> Mesh::coordinate_of(int rank) const {
  const auto found = std::ranges::find(ranks, rank);
  if (found == ranks.end()) {
    return {};
  }
  return mesh_coordinate(shape, found - ranks.begin());
}

std::vector<int> mesh_coordinate(std::span<const int> mesh_shape, std::int64_t index) {
  std::vector<int> coordinate(mesh_shape.size());
  for (std::size_t i = mesh_shape.size(); i-- > 0;) {
    coordinate[i] = static_cast<int>(index % mesh_shape[i]);
    index /= mesh_shape[i];
  }
  return coordinate;
}

std::vector<DimIntervals> local_intervals(const Shape& shape,
                                          std::span<const int> mesh_shape,
                                          std::span<const int> coordinate,
                                          std::span<const Placement> placements) {
  std::string why = cut_misfit(shape, mesh_shape, placements);
  if (why.empty() && coordinate.size() != mesh_shape.size()) {
    why = "the coordinate has " + std::to_string(coordinate.size()) + " numbers";
  }
  if (!why.empty()) {
    refuse_map("cannot cut a tensor of shape " + shape.to_string(),
               why,
               "give one placement for each mesh dimension, and a dimension that the tensor has");
  }
  std::vector<DimIntervals> held;
  for (const std::int64_t extent : shape.values()) {
    held.push_back(extent > 0 ? DimIntervals{{0, extent}} : DimIntervals{});
  }
  for (const Cut& cut : ordered_cuts(mesh_shape, coordinate, placements)) {
    DimIntervals& own = held[static_cast<std::size_t>(cut.dim)];
    own = apply_cut(cut, own);
  }
  return held;
}

}  // namespace dynatrain
