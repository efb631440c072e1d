#include "dynatrain/execution/executor.hpp"

#include "execution/box_sum.hpp"
#include "execution/in_threads.hpp"
#include <algorithm>
#include <cstdint>
#include <vector>

namespace dynatrain {
namespace {

/// What is left of `box` for a rank once all ranks below it have taken theirs.
std::vector<Box> lowest_owned(const Box& box, int rank, const std::vector<OwnedBox>& owned) {
  std::vector<Box> left{box};
  for (const OwnedBox& other : owned) {
    if (other.ranks.front() >= rank || !intersect(other.box, box)) {
      continue;
    }
    std::vector<Box> next;
    for (const Box& piece : left) {
      const std::vector<Box> rest = subtract(piece, other.box);
      next.insert(next.end(), rest.begin(), rest.end());
    }
    left = std::move(next);
  }
  return left;
}

}  // namespace

std::uint64_t fingerprint_share(const ShardMap& map,
                                int rank,
                                const TensorMemory& memory,
                                int num_threads) {
  std::vector<SummedBox> pieces;
  std::vector<std::uint64_t> keys;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    keys.push_back(tensor_key(map.tensor(id)));
    const std::vector<Fragment> fragments = map.fragments(id, rank);
    if (fragments.empty()) {
      continue;
    }
    const std::vector<OwnedBox> owned = map.owned_boxes(id);
    for (const Fragment& fragment : fragments) {
      for (const Box& box : lowest_owned(fragment.box, rank, owned)) {
        append_pieces(pieces,
                      {.tensor = id, .box = box, .fragment = fragment, .owner = 0},
                      map.tensor(id).dtype.size_bytes);
      }
    }
  }
  std::vector<std::uint64_t> sums(pieces.size());
  in_threads(std::ssize(pieces), num_threads, [&](std::int64_t i) {
    const auto index = static_cast<std::size_t>(i);
    const TensorId id = pieces[index].tensor;
    sums[index] = sum_box(map.tensor(id), pieces[index], memory, keys[id.index()]);
  });
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) {
    total += sum;
  }
  return total;
}

}  // namespace dynatrain
