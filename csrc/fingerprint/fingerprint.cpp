#include "dynatrain/fingerprint/fingerprint.hpp"

#include "fingerprint/box_sum.hpp"
#include "fingerprint/held_tensors.hpp"
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
  for_each_held(map, rank, [&](const HeldTensor& held) {
    for (const Fragment& fragment : held.fragments) {
      for (const Box& box : lowest_owned(fragment.box, rank, held.owned)) {
        append_pieces(pieces,
                      {.tensor = held.id, .box = box, .fragment = fragment, .owner = 0},
                      map.tensor(held.id).dtype.size_bytes);
      }
    }
  });
  const std::vector<std::uint64_t> sums = sum_pieces(map, pieces, memory, means);
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) {
    total += sum;
  }
  return total;
}

}  // namespace dynatrain
