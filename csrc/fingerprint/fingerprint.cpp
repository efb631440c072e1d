#include "dynatrain/fingerprint/fingerprint.hpp"

#include "dynatrain/base/error.hpp"

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

/// The pieces of a tensor of which `rank` is the lowest owner.
void append_lowest(std::vector<SummedBox>& pieces,
                   const ShardMap& map,
                   int rank,
                   const HeldTensor& held,
                   std::uint64_t key,
                   std::int64_t owner) {
  for (const Fragment& fragment : held.fragments) {
    for (const Box& box : lowest_owned(fragment.box, rank, held.owned)) {
      append_pieces(
          pieces,
          {.tensor = held.id, .box = box, .fragment = fragment, .key = key, .owner = owner},
          map.tensor(held.id).dtype.size_bytes);
    }
  }
}

}  // namespace

std::uint64_t fingerprint_share(const ShardMap& map,
                                int rank,
                                const TensorMemory& memory,
                                const HashMeans& means) {
  std::vector<SummedBox> pieces;
  for_each_held(map, rank, [&](const HeldTensor& held) {
    append_lowest(pieces, map, rank, held, tensor_key(map.tensor(held.id)), 0);
  });
  const std::vector<std::uint64_t> sums = sum_pieces(map, pieces, memory, means);
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) {
    total += sum;
  }
  return total;
}

std::vector<std::uint64_t> content_shares(const ShardMap& map,
                                          int rank,
                                          const TensorMemory& memory,
                                          std::span<const std::string> names,
                                          const HashMeans& means) {
  std::vector<SummedBox> pieces;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const TensorId id = map.find(names[i]);
    DYNATRAIN_CHECK(id.value >= 0, "execution: the map has no tensor '" + names[i] + "'");
    const HeldTensor held{id, map.fragments(id, rank), map.owned_boxes(id)};
    append_lowest(pieces, map, rank, held, 0, static_cast<std::int64_t>(i));
  }
  const std::vector<std::uint64_t> sums = sum_pieces(map, pieces, memory, means);
  std::vector<std::uint64_t> shares(names.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    shares[static_cast<std::size_t>(pieces[i].owner)] += sums[i];
  }
  return shares;
}

}  // namespace dynatrain
