#include "execution/fragment_finder.hpp"

#include "dynatrain/base/error.hpp"

#include <string>

namespace dynatrain {

const std::vector<Fragment>& FragmentFinder::all(TensorId tensor) {
  Fragments& fragments = of_[tensor.index()];
  if (!fragments.is_known) {
    fragments.sorted = map_.fragments(tensor, rank_);
    fragments.is_known = true;
  }
  return fragments.sorted;
}

const Fragment& FragmentFinder::find(TensorId tensor, const Box& box) {
  const std::vector<Fragment>& sorted = all(tensor);
  std::size_t& last = of_[tensor.index()].last;
  for (std::size_t tried = 0; tried < sorted.size(); ++tried) {
    if (contains(sorted[last].box, box)) {
      return sorted[last];
    }
    last = last + 1 == sorted.size() ? 0 : last + 1;
  }
  throw InternalError("execution: rank " + std::to_string(rank_) + " has no fragment of '" +
                      map_.tensor(tensor).name + "' that holds " + box.to_string() +
                      "\n  the plan and the shard map differ\n  please report this as a bug of "
                      "dynatrain");
}

}  // namespace dynatrain
