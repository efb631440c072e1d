#include "dynatrain/fingerprint/fingerprint.hpp"

#include "fingerprint/box_sum.hpp"
#include "fingerprint/held_tensors.hpp"
#include "fingerprint/sum_pieces.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// True when two distinct boxes of the tensor share elements: replicas that are cut differently.
bool has_partial_overlap(const std::vector<OwnedBox>& owned, const Shape& shape) {
  std::int64_t covered = 0;
  for (const OwnedBox& box : owned) {
    covered += box.box.num_elements();
  }
  return covered > num_elements(shape);
}

/// Where owners of the tensor have a border inside `box` along `dim`, its ends included, ascending.
std::vector<std::int64_t> cuts_along(int dim, const Box& box, const std::vector<OwnedBox>& owned) {
  std::vector<std::int64_t> cuts{box.begin[dim], box.end[dim]};
  for (const OwnedBox& other : owned) {
    for (const std::int64_t cut : {other.box.begin[dim], other.box.end[dim]}) {
      if (cut > box.begin[dim] && cut < box.end[dim]) {
        cuts.push_back(cut);
      }
    }
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

/// Cuts `box` wherever any owner of the tensor has a border, so that ranks with different boxes
/// hash the same cells.
std::vector<Box> cells_of(const Box& box, const std::vector<OwnedBox>& owned) {
  std::vector<Box> cells{box};
  for (int d = 0; d < box.rank(); ++d) {
    const std::vector<std::int64_t> cuts = cuts_along(d, box, owned);
    std::vector<Box> next;
    for (const Box& cell : cells) {
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        next.push_back(cell);
        next.back().begin[d] = cuts[i];
        next.back().end[d] = cuts[i + 1];
      }
    }
    cells = std::move(next);
  }
  return cells;
}

std::string line_of(const ShardMap& map,
                    const std::pair<TensorId, Box>& cell,
                    const std::map<std::uint64_t, std::vector<int>>& ranks_of_hash) {
  std::string line =
      "'" + map.tensor(cell.first).name + "' " + cell.second.to_string() + " differs between ranks";
  const char* separator = " ";
  for (const auto& [hash, ranks] : ranks_of_hash) {
    line += separator;
    separator = " and ranks ";
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      line += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
    }
  }
  return line;
}

}  // namespace

std::vector<FragmentHash> fragment_hashes(const ShardMap& map,
                                          int rank,
                                          const TensorMemory& memory,
                                          const HashMeans& means,
                                          std::span<const std::string> names) {
  std::vector<FragmentHash> hashes;
  std::vector<SummedBox> pieces;
  const std::set<std::string_view> wanted(names.begin(), names.end());
  for_each_held(map, rank, [&](const HeldTensor& held) {
    const LogicalTensor& tensor = map.tensor(held.id);
    if (!wanted.empty() && !wanted.contains(tensor.name)) {
      return;
    }
    const bool is_cut = has_partial_overlap(held.owned, tensor.shape);
    for (const Fragment& fragment : held.fragments) {
      for (const Box& cell :
           is_cut ? cells_of(fragment.box, held.owned) : std::vector<Box>{fragment.box}) {
        append_pieces(pieces,
                      {.tensor = held.id,
                       .box = cell,
                       .fragment = fragment,
                       .key = tensor_key(tensor),
                       .owner = std::ssize(hashes)},
                      tensor.dtype.size_bytes);
        hashes.push_back({.tensor = held.id, .box = cell, .hash = 0});
      }
    }
  });
  const std::vector<std::uint64_t> sums = sum_pieces(map, pieces, memory, means);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    hashes[static_cast<std::size_t>(pieces[i].owner)].hash += sums[i];
  }
  return hashes;
}

std::vector<std::string> compare_replicas(
    const ShardMap& map, std::span<const std::vector<FragmentHash>> hashes_of_rank) {
  std::map<std::pair<TensorId, Box>, std::map<std::uint64_t, std::vector<int>>> cells;
  for (std::size_t rank = 0; rank < hashes_of_rank.size(); ++rank) {
    for (const FragmentHash& fragment : hashes_of_rank[rank]) {
      cells[{fragment.tensor, fragment.box}][fragment.hash].push_back(static_cast<int>(rank));
    }
  }
  std::vector<std::string> lines;
  for (const auto& [cell, ranks_of_hash] : cells) {
    if (ranks_of_hash.size() > 1) {
      lines.push_back(line_of(map, cell, ranks_of_hash));
    }
  }
  return lines;
}

}  // namespace dynatrain
