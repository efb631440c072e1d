#include "dynatrain/fingerprint/fingerprint.hpp"

#include "fingerprint/box_sum.hpp"
#include "fingerprint/sum_pieces.hpp"
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
                                const HashMeans& means) {
  std::vector<SummedBox> pieces;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
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
  const std::vector<std::uint64_t> sums = sum_pieces(map, pieces, memory, means);
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) {
    total += sum;
  }
  return total;
}

}  // namespace dynatrain
