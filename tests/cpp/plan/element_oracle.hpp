#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

/// Random shard maps beside the plainest statement of what they mean: for every single element, the
/// set of ranks that hold it. The sets are made element by element and share no code with the
/// library's boxes and intervals.
namespace dynatrain::testing {

inline constexpr int kMostRanks = 16;

/// Ranks that hold one element, as bits.
using RankSet = std::uint32_t;

inline bool holds(RankSet set, int rank) {
  return ((set >> static_cast<unsigned>(rank)) & 1U) != 0;
}
inline RankSet only(int rank) {
  return RankSet{1} << static_cast<unsigned>(rank);
}

/// Who holds each element of one tensor, by row-major index.
using Ownership = std::vector<RankSet>;

/// A sharding and what it should mean.
struct KnownSharding {
  std::shared_ptr<const Sharding> sharding;
  Ownership owners;
};

/// Two maps over the same tensors and what they should mean.
struct KnownPair {
  std::vector<ShardMap::Entry> source;
  std::vector<ShardMap::Entry> target;
  std::vector<Ownership> held;    ///< by tensor
  std::vector<Ownership> needed;  ///< by tensor
  int num_ranks = 0;
};

/// The row-major indices of a box's elements, in the box's own row-major order.
inline std::vector<std::size_t> elements_of(const Shape& shape, const Box& box) {
  std::vector<std::size_t> elements{0};
  for (int d = 0; d < shape.rank(); ++d) {
    std::vector<std::size_t> longer;
    for (const std::size_t prefix : elements) {
      for (std::int64_t i = box.begin[d]; i < box.end[d]; ++i) {
        longer.push_back(prefix * static_cast<std::size_t>(shape[d]) + static_cast<std::size_t>(i));
      }
    }
    elements = std::move(longer);
  }
  return elements;
}

/// Draws tensors and shardings. Equal seeds draw equal pairs.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}

  std::int64_t number(std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random_);
  }
  bool one_in(int n) { return number(1, n) == 1; }

  /// Scalars, empty and uneven tensors included.
  Shape shape() {
    std::vector<std::int64_t> sizes;
    const std::int64_t rank = number(0, 3);
    for (std::int64_t d = 0; d < rank; ++d) {
      sizes.push_back(one_in(40) ? 0 : number(1, rank == 1 ? 40 : 9));
    }
    return Shape(std::span<const std::int64_t>(sizes));
  }

  std::vector<int> ranks(int num_ranks, std::int64_t count) {
    std::vector<int> all(static_cast<std::size_t>(num_ranks));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random_);
    all.resize(static_cast<std::size_t>(count));
    return all;
  }

  KnownSharding sharding(const Shape& shape, const std::vector<int>& among) {
    switch (number(0, 5)) {
      case 0:
        return table(shape, among);
      case 1:
        return flat(shape, among);
      case 2:
        return replicated(shape, among);
      case 3:
        return among.size() > 1 ? tied(shape, among) : compact(shape, among);
      default:
        return compact(shape, among);
    }
  }

  KnownSharding replicated(const Shape& shape, const std::vector<int>& among) {
    KnownSharding known{make_replicated_sharding(among), nobody(shape)};
    for (const int rank : among) {
      for (RankSet& owners : known.owners) {
        owners |= only(rank);
      }
    }
    return known;
  }

  /// Two shardings side by side, as a tied weight on two pipeline stages has.
  KnownSharding tied(const Shape& shape, const std::vector<int>& among) {
    const auto half = static_cast<std::ptrdiff_t>(among.size() / 2);
    const KnownSharding first = compact(shape, {among.begin(), among.begin() + half});
    const KnownSharding second = compact(shape, {among.begin() + half, among.end()});
    KnownSharding known{make_union_sharding({first.sharding, second.sharding}), first.owners};
    for (std::size_t e = 0; e < known.owners.size(); ++e) {
      known.owners[e] |= second.owners[e];
    }
    return known;
  }

  /// Consecutive row-major ranges, empty ones included.
  KnownSharding flat(const Shape& shape, std::vector<int> among) {
    std::ranges::sort(among);
    KnownSharding known{nullptr, nobody(shape)};
    const auto num_elems = static_cast<std::int64_t>(known.owners.size());
    std::vector<std::int64_t> bounds{0, num_elems};
    std::vector<std::int64_t> offsets;
    for (std::size_t i = 0; i < among.size(); ++i) {
      offsets.push_back(number(0, 3));
      bounds.push_back(number(0, num_elems));
    }
    bounds.pop_back();
    std::ranges::sort(bounds);
    for (std::size_t i = 0; i < among.size(); ++i) {
      for (std::int64_t e = bounds[i]; e < bounds[i + 1]; ++e) {
        known.owners[static_cast<std::size_t>(e)] = only(among[i]);
      }
    }
    known.sharding = make_flat_sharding(shape, among, bounds, offsets);
    return known;
  }

  /// Boxes from random cuts, each at one or more ranks; a rank's view is dense or strided.
  KnownSharding table(const Shape& shape, const std::vector<int>& among) {
    KnownSharding known{nullptr, nobody(shape)};
    std::map<int, std::vector<Fragment>> fragments;
    std::map<int, std::int64_t> used;
    for (const Box& box : random_boxes(Box::whole(shape), 3)) {
      RankSet owners = only(among[static_cast<std::size_t>(number(0, std::ssize(among) - 1))]);
      for (const int rank : among) {
        owners |= one_in(4) ? only(rank) : 0;
      }
      const std::vector<std::size_t> elements = elements_of(shape, box);
      for (const std::size_t e : elements) {
        known.owners[e] = owners;
      }
      for (const int rank : among) {
        if (holds(owners, rank)) {
          const Strides strides = row_major_strides(one_in(3) ? shape : box.shape());
          fragments[rank].push_back({.box = box, .view = {used[rank], strides}});
          used[rank] += static_cast<std::int64_t>(known.owners.size());
        }
      }
    }
    known.sharding = make_table_sharding(std::move(fragments));
    return known;
  }

  /// A mesh of one or two dimensions; Shard, Replicate, and FSDP inside TP on one dimension.
  KnownSharding compact(const Shape& shape, const std::vector<int>& among) {
    Mesh mesh{{static_cast<int>(among.size())}, among};
    for (const int outer : {2, 3}) {
      if (std::ssize(among) % outer == 0 && one_in(2)) {
        mesh.shape = {outer, static_cast<int>(among.size()) / outer};
        break;
      }
    }
    std::vector<Placement> placements;
    for (std::size_t i = 0; i < mesh.shape.size(); ++i) {
      const bool is_cut = shape.rank() > 0 && !one_in(3);
      placements.push_back({is_cut ? Placement::Kind::kShard : Placement::Kind::kReplicate,
                            is_cut ? static_cast<int>(number(0, shape.rank() - 1)) : 0,
                            1});
    }
    const bool is_nested = placements.size() == 2 && placements[0] == placements[1] &&
                           placements[0].kind == Placement::Kind::kShard && one_in(2);
    if (is_nested) {
      placements[0].split_factor = mesh.shape[1];
    }
    KnownSharding known{make_compact_sharding(mesh, placements), nobody(shape)};
    for (std::size_t i = 0; i < among.size(); ++i) {
      mark_mesh_place(known.owners, shape, mesh, placements, i);
    }
    return known;
  }

  KnownPair pair(int num_tensors, const std::vector<std::int64_t>& elem_sizes) {
    KnownPair pair;
    pair.num_ranks = static_cast<int>(number(1, 9));
    for (int t = 0; t < num_tensors; ++t) {
      const LogicalTensor tensor{
          "t" + std::to_string(t),
          shape(),
          {"bytes", elem_sizes[static_cast<std::size_t>(number(0, std::ssize(elem_sizes) - 1))]}};
      KnownSharding source =
          sharding(tensor.shape, ranks(pair.num_ranks, number(1, pair.num_ranks)));
      KnownSharding target =
          sharding(tensor.shape, ranks(pair.num_ranks, number(1, pair.num_ranks)));
      if (one_in(6)) {
        target = source;
      }
      pair.source.push_back({tensor, source.sharding});
      pair.target.push_back({tensor, target.sharding});
      pair.held.push_back(std::move(source.owners));
      pair.needed.push_back(std::move(target.owners));
    }
    return pair;
  }

 private:
  static Ownership nobody(const Shape& shape) {
    std::size_t count = 1;
    for (int d = 0; d < shape.rank(); ++d) {
      count *= static_cast<std::size_t>(shape[d]);
    }
    return Ownership(count, 0);
  }

  std::vector<Box> random_boxes(const Box& whole, int depth) {
    if (depth == 0 || whole.rank() == 0 || whole.empty()) {
      return whole.empty() ? std::vector<Box>{} : std::vector<Box>{whole};
    }
    const int dim = static_cast<int>(number(0, whole.rank() - 1));
    const std::int64_t cut = number(whole.begin[dim], whole.end[dim]);
    Box low = whole;
    Box high = whole;
    low.end[dim] = cut;
    high.begin[dim] = cut;
    std::vector<Box> boxes = random_boxes(low, depth - 1);
    for (Box& box : random_boxes(high, depth - 1)) {
      boxes.push_back(std::move(box));
    }
    return boxes;
  }

  /// The index list cut in chunks of ceil(n / parts), as torch.chunk does.
  static std::vector<std::int64_t> chunk(const std::vector<std::int64_t>& list,
                                         std::size_t parts,
                                         std::size_t which) {
    const std::size_t length = (list.size() + parts - 1) / parts;
    const std::size_t begin = std::min(list.size(), which * length);
    const std::size_t end = std::min(list.size(), begin + length);
    return {list.begin() + static_cast<std::ptrdiff_t>(begin),
            list.begin() + static_cast<std::ptrdiff_t>(end)};
  }

  /// Marks what the `place`-th rank of the mesh holds: whole index lists, cut and cut again.
  static void mark_mesh_place(Ownership& owners,
                              const Shape& shape,
                              const Mesh& mesh,
                              const std::vector<Placement>& placements,
                              std::size_t place) {
    std::vector<std::size_t> coordinate{place};
    if (mesh.shape.size() == 2) {
      const auto inner = static_cast<std::size_t>(mesh.shape[1]);
      coordinate = {place / inner, place % inner};
    }
    std::vector<std::size_t> order(mesh.shape.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    if (placements.front().split_factor > 1) {
      std::ranges::reverse(order);
    }
    std::vector<std::vector<std::int64_t>> lists;
    for (int d = 0; d < shape.rank(); ++d) {
      lists.emplace_back(static_cast<std::size_t>(shape[d]));
      std::iota(lists.back().begin(), lists.back().end(), std::int64_t{0});
    }
    for (const std::size_t m : order) {
      if (placements[m].kind == Placement::Kind::kShard) {
        auto& list = lists[static_cast<std::size_t>(placements[m].dim)];
        list = chunk(list, static_cast<std::size_t>(mesh.shape[m]), coordinate[m]);
      }
    }
    std::vector<std::size_t> elements{0};
    for (int d = 0; d < shape.rank(); ++d) {
      std::vector<std::size_t> longer;
      for (const std::size_t prefix : elements) {
        for (const std::int64_t i : lists[static_cast<std::size_t>(d)]) {
          longer.push_back(prefix * static_cast<std::size_t>(shape[d]) +
                           static_cast<std::size_t>(i));
        }
      }
      elements = std::move(longer);
    }
    for (const std::size_t e : elements) {
      owners[e] |= only(mesh.ranks[place]);
    }
  }

  std::mt19937_64 random_;
};

}  // namespace dynatrain::testing
