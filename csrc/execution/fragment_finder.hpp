#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <cstddef>
#include <vector>

namespace dynatrain {

/// Finds the fragment of one rank that holds a box. Asks the map once per tensor; moves come in
/// order, so a search starts where the last one ended.
class FragmentFinder {
 public:
  FragmentFinder(const ShardMap& map, int rank) : map_(map), rank_(rank), of_(map.num_tensors()) {}

  /// Errors: InternalError when no fragment of the rank holds the whole box.
  [[nodiscard]] const Fragment& find(TensorId tensor, const Box& box);
  [[nodiscard]] const std::vector<Fragment>& all(TensorId tensor);
  [[nodiscard]] int rank() const { return rank_; }

 private:
  struct Fragments {
    std::vector<Fragment> sorted;
    std::size_t last = 0;
    bool is_known = false;
  };

  const ShardMap& map_;
  int rank_;
  std::vector<Fragments> of_;
};

}  // namespace dynatrain
