#include "plan/senders.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace dynatrain {
namespace {

/// Splitting below this would turn long runs into small parts for little balance.
constexpr std::int64_t kMinShareBytes = 256LL << 10U;

struct Split {
  int dim = 0;
  std::int64_t num_pieces = 1;
  bool is_even = false;  ///< every candidate gets the same number of pieces when dealt in turn
};

Split choose_split(const SenderGroup& group, const Box& cell, std::int64_t elem_bytes) {
  const auto num_candidates = static_cast<std::int64_t>(group.candidates.size());
  const auto num_needers = static_cast<std::int64_t>(group.needers.size());
  const std::int64_t full = num_candidates / std::gcd(num_candidates, num_needers);
  if (full == 1) {
    return {.is_even = true};
  }
  const std::int64_t cell_bytes = cell.num_elements() * elem_bytes;
  const std::int64_t wanted = std::clamp<std::int64_t>(cell_bytes / kMinShareBytes, 1, full);
  Split split;
  for (int d = 0; d < cell.rank() && split.num_pieces < wanted; ++d) {
    const std::int64_t pieces = std::min(wanted, cell.dim(d).size());
    if (pieces > split.num_pieces) {
      split.dim = d;
      split.num_pieces = pieces;
    }
  }
  split.is_even = split.num_pieces == full;
  return split;
}

Box piece_of(const Box& cell, const Split& split, std::int64_t index) {
  if (split.num_pieces == 1) {
    return cell;
  }
  Box piece = cell;
  const Interval whole = cell.dim(split.dim);
  piece.begin[split.dim] = whole.begin + whole.size() * index / split.num_pieces;
  piece.end[split.dim] = whole.begin + whole.size() * (index + 1) / split.num_pieces;
  return piece;
}

/// The place of `rank` in an ascending list, or -1.
std::int64_t place_of(const std::vector<int>& ranks, int rank) {
  const auto found = std::ranges::lower_bound(ranks, rank);
  return found != ranks.end() && *found == rank ? found - ranks.begin() : -1;
}

/// Turn t serves needer t / pieces with piece t % pieces; candidate (t + first) % n takes turn t.
/// Only the turns of `rank` are visited.
std::vector<Share> deal_in_turn(
    const SenderGroup& group, const Box& cell, const Split& split, std::int64_t first, int rank) {
  const auto num_candidates = static_cast<std::int64_t>(group.candidates.size());
  const std::int64_t num_turns = static_cast<std::int64_t>(group.needers.size()) * split.num_pieces;
  std::int64_t turn = 0;
  std::int64_t end = num_turns;
  std::int64_t step = 1;
  if (const std::int64_t needer = place_of(group.needers, rank); needer >= 0) {
    turn = needer * split.num_pieces;
    end = turn + split.num_pieces;
  } else {
    const std::int64_t own = place_of(group.candidates, rank);
    turn = ((own - first) % num_candidates + num_candidates) % num_candidates;
    step = num_candidates;
  }
  std::vector<Share> shares;
  for (; turn < end; turn += step) {
    const auto src = static_cast<std::size_t>((turn + first) % num_candidates);
    const auto dst = static_cast<std::size_t>(turn / split.num_pieces);
    shares.push_back({.box = piece_of(cell, split, turn % split.num_pieces),
                      .src_rank = group.candidates[src],
                      .dst_rank = group.needers[dst]});
  }
  return shares;
}

/// The candidate with the fewest booked bytes; among equals the next one from `first` on.
std::size_t least_loaded(const SenderGroup& group, std::int64_t first) {
  const std::size_t num_candidates = group.candidates.size();
  std::size_t best = static_cast<std::size_t>(first) % num_candidates;
  for (std::size_t i = 1; i < num_candidates; ++i) {
    const std::size_t next = (static_cast<std::size_t>(first) + i) % num_candidates;
    if (group.dealt_bytes[next] < group.dealt_bytes[best]) {
      best = next;
    }
  }
  return best;
}

}  // namespace

SenderGroup* Senders::group_of(std::vector<int> candidates, std::vector<int> needers) {
  const auto [entry, is_new] = groups_.try_emplace({.owners = candidates, .needers = needers});
  if (is_new) {
    std::vector<std::int64_t> dealt_bytes(candidates.size(), 0);
    entry->second = {.candidates = std::move(candidates),
                     .needers = std::move(needers),
                     .dealt_bytes = std::move(dealt_bytes)};
  }
  return &entry->second;
}

SenderRole Senders::role_in(const Parties& parties) {
  const std::vector<int>& owners = parties.owners;
  std::map<int, std::vector<int>> owners_of_node;
  for (const int owner : owners) {
    owners_of_node[record_.node_of(owner)].push_back(owner);
  }
  std::vector<int> lacking;
  std::ranges::set_difference(parties.needers, owners, std::back_inserter(lacking));
  std::map<int, std::vector<int>> near;
  std::vector<int> far;
  for (const int needer : lacking) {
    const int node = record_.node_of(needer);
    (owners_of_node.contains(node) ? near[node] : far).push_back(needer);
  }
  const bool is_owner = place_of(owners, rank_) >= 0;
  SenderRole role{.keeps = is_owner && place_of(parties.needers, rank_) >= 0, .groups = {}};
  for (auto& [node, needers] : near) {
    const bool is_member =
        is_owner ? record_.node_of(rank_) == node : place_of(needers, rank_) >= 0;
    if (is_member) {
      role.groups.push_back(group_of(owners_of_node[node], std::move(needers)));
    }
  }
  if (!far.empty() && (is_owner || place_of(far, rank_) >= 0)) {
    role.groups.push_back(group_of(owners, std::move(far)));
  }
  return role;
}

std::vector<Share> Senders::choose(const Cell& cell,
                                   const SenderRole& role,
                                   TensorId tensor,
                                   std::int64_t elem_bytes) {
  std::vector<Share> shares;
  if (role.keeps) {
    shares.push_back({.box = cell.box, .src_rank = rank_, .dst_rank = rank_});
  }
  for (SenderGroup* const group : role.groups) {
    std::ranges::move(deal(*group, cell.box, tensor, elem_bytes), std::back_inserter(shares));
  }
  return shares;
}

std::vector<Share> Senders::deal(SenderGroup& group,
                                 const Box& cell,
                                 TensorId tensor,
                                 std::int64_t elem_bytes) {
  const Split split = choose_split(group, cell, elem_bytes);
  const std::int64_t first = std::int64_t{group.needers.front()} + tensor.value;
  if (split.is_even) {
    return deal_in_turn(group, cell, split, first, rank_);
  }
  std::vector<Share> shares;
  std::int64_t turn = first;
  for (const int needer : group.needers) {
    for (std::int64_t piece = 0; piece < split.num_pieces; ++piece, ++turn) {
      const Box box = piece_of(cell, split, piece);
      const std::size_t src = least_loaded(group, turn);
      group.dealt_bytes[src] += box.num_elements() * elem_bytes;
      if (needer == rank_ || group.candidates[src] == rank_) {
        shares.push_back({.box = box, .src_rank = group.candidates[src], .dst_rank = needer});
      }
    }
  }
  return shares;
}

}  // namespace dynatrain
