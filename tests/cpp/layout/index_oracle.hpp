#pragma once

#include "dynatrain/layout/placement.hpp"

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace dynatrain::testing {

/// The oracle of the room: lists of single indices, cut as torch cuts tensors. No intervals.
using Indices = std::vector<std::int64_t>;

inline Indices iota(std::int64_t size) {
  Indices indices;
  for (std::int64_t i = 0; i < size; ++i) {
    indices.push_back(i);
  }
  return indices;
}

/// torch.chunk: pieces of equal size while they last; the last one shorter, the rest empty.
inline std::vector<Indices> chunk(const Indices& indices, std::size_t parts) {
  std::size_t size = 0;
  while (size * parts < indices.size()) {
    ++size;
  }
  std::vector<Indices> pieces(parts);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    pieces[i / size].push_back(indices[i]);
  }
  return pieces;
}

/// _StridedShard of torch: cut into `split_factor` pieces, cut each into `parts`, join equal parts.
inline Indices strided_part(const Indices& indices,
                            std::size_t split_factor,
                            std::size_t parts,
                            std::size_t own) {
  Indices joined;
  for (const Indices& piece : chunk(indices, split_factor)) {
    const Indices part = chunk(piece, parts)[own];
    joined.insert(joined.end(), part.begin(), part.end());
  }
  return joined;
}

inline Indices indices_of(const DimIntervals& intervals) {
  Indices indices;
  for (const Interval& interval : intervals) {
    for (std::int64_t i = interval.begin; i < interval.end; ++i) {
      indices.push_back(i);
    }
  }
  return indices;
}

inline Placement shard(int dim, std::int64_t split_factor = 1) {
  return {Placement::Kind::kShard, dim, split_factor};
}

inline Placement replicate() {
  return {};
}

}  // namespace dynatrain::testing
