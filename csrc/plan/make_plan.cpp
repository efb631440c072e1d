#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"
#include "dynatrain/plan/plan.hpp"

#include "plan/bounds.hpp"
#include "plan/cell_table.hpp"
#include "plan/merge.hpp"
#include "plan/senders.hpp"
#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// What all tensors of one shape and one pair of shardings have in common, seen from one rank.
struct Stamp {
  CellTable table;
  std::vector<SenderRole> roles;  ///< of each cell
  std::int64_t lacking_elems = 0;
  bool is_adoptable = false;
};

/// A box between two ranks, and the fragments it lies in on either end.
struct Piece {
  int src_rank = 0;
  int dst_rank = 0;
  std::int32_t source_box = 0;
  std::int32_t target_box = 0;
  Box box;

  [[nodiscard]] auto ends() const { return std::tie(src_rank, dst_rank, source_box, target_box); }
};

bool in_canonical_order(const Move& a, const Move& b) {
  return std::tie(a.tensor, a.box) < std::tie(b.tensor, b.box);
}

std::uint64_t hash_of_moves(const std::vector<Move>& moves) {
  Hasher hasher;
  for (const Move& move : moves) {
    hasher.add(std::int64_t{move.tensor.value});
    hasher.add(move.src_rank);
    hasher.add(move.dst_rank);
    hasher.add(move.box.rank());
    for (int d = 0; d < move.box.rank(); ++d) {
      hasher.add(move.box.begin[d]);
      hasher.add(move.box.end[d]);
    }
  }
  return hasher.digest();
}

/// Brings every list into canonical order (a tensor's moves come in by fragments) and hashes it.
std::vector<PairList> finish(std::map<int, PairList> list_of_peer) {
  std::vector<PairList> lists;
  lists.reserve(list_of_peer.size());
  for (auto& [peer, list] : list_of_peer) {
    list.peer = peer;
    std::ranges::sort(list.moves, in_canonical_order);
    list.hash = hash_of_moves(list.moves);
    lists.push_back(std::move(list));
  }
  return lists;
}

std::int64_t total_bytes(const std::vector<PairList>& lists) {
  std::int64_t bytes = 0;
  for (const PairList& list : lists) {
    bytes = checked_add(bytes, list.size_bytes);
  }
  return bytes;
}

class Planner {
 public:
  Planner(const ShardMap& source, const ShardMap& target, int rank, const DecisionRecord& record)
      : source_(source), target_(target), senders_(record, rank) {
    plan_.rank = rank;
  }

  Plan run() {
    for (std::size_t i = 0; i < source_.num_tensors(); ++i) {
      plan_tensor(TensorId(static_cast<std::int64_t>(i)));
    }
    plan_.sends = finish(std::move(sends_));
    plan_.receives = finish(std::move(receives_));
    plan_.traffic.sent_bytes = total_bytes(plan_.sends);
    plan_.traffic.received_bytes = total_bytes(plan_.receives);
    std::ranges::sort(plan_.locals, in_canonical_order);
    return std::move(plan_);
  }

 private:
  using StampKey = std::tuple<Shape, std::uint64_t, std::uint64_t>;

  std::uint64_t hash_of(const Sharding& sharding) {
    const auto [entry, is_new] = hashes_.try_emplace(&sharding, 0);
    if (is_new) {
      entry->second = sharding.hash();
    }
    return entry->second;
  }

  const Stamp& stamp_of(TensorId id) {
    const LogicalTensor& tensor = source_.tensor(id);
    const Sharding& source = source_.sharding(id);
    const Sharding& target = target_.sharding(id);
    StampKey key{tensor.shape, hash_of(source), hash_of(target)};
    if (const auto found = stamps_.find(key); found != stamps_.end()) {
      return found->second;
    }
    const std::vector<Fragment> held = source.fragments(tensor.shape, plan_.rank);
    const std::vector<Fragment> needed = target.fragments(tensor.shape, plan_.rank);
    if (held.empty() && needed.empty()) {  // of other ranks alone, as most tensors of a pipeline
      return stamps_.emplace(std::move(key), Stamp{}).first->second;
    }
    Stamp stamp{.table = make_cell_table(tensor, source, target, plan_.rank),
                .roles = {},
                .lacking_elems = lacking_elems(held, needed),
                .is_adoptable = !needed.empty() && held == needed};
    ++plan_.num_cell_tables;
    for (const Cell& cell : stamp.table.cells) {
      stamp.roles.push_back(senders_.role_in(cell.parties));
    }
    return stamps_.emplace(std::move(key), std::move(stamp)).first->second;
  }

  void plan_tensor(TensorId id) {
    const Stamp& stamp = stamp_of(id);
    const std::int64_t elem_bytes = source_.tensor(id).dtype.size_bytes;
    std::vector<Piece> pieces = pieces_of(stamp, id, elem_bytes);
    std::ranges::stable_sort(pieces,
                             [](const Piece& a, const Piece& b) { return a.ends() < b.ends(); });
    for (auto begin = pieces.begin(); begin != pieces.end();) {
      const auto end = std::find_if(
          begin, pieces.end(), [&](const Piece& piece) { return piece.ends() != begin->ends(); });
      std::vector<Box> boxes;
      std::transform(begin, end, std::back_inserter(boxes), [](const Piece& p) { return p.box; });
      const std::vector<Box> merged = merge_neighbours(std::move(boxes));
      for (const Box& box : merged) {
        add({.tensor = id, .box = box, .src_rank = begin->src_rank, .dst_rank = begin->dst_rank},
            elem_bytes);
      }
      begin = end;
    }
    plan_.traffic.lower_bound_bytes += stamp.lacking_elems * elem_bytes;
    if (stamp.is_adoptable) {
      plan_.adoptable.push_back(id);
      plan_.traffic.adoptable_bytes += target_bytes(id);
    }
  }

  std::int64_t target_bytes(TensorId id) const {
    std::int64_t elems = 0;
    for (const Fragment& fragment : target_.fragments(id, plan_.rank)) {
      elems += fragment.box.num_elements();
    }
    return elems * target_.tensor(id).dtype.size_bytes;
  }

  std::vector<Piece> pieces_of(const Stamp& stamp, TensorId id, std::int64_t elem_bytes) {
    const CellTable& table = stamp.table;
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < table.cells.size(); ++i) {
      const Cell& cell = table.cells[i];
      for (const Share& share : senders_.choose(cell, stamp.roles[i], id, elem_bytes)) {
        pieces.push_back(
            {.src_rank = share.src_rank,
             .dst_rank = share.dst_rank,
             .source_box = box_held_by(table.source, cell.source_boxes, share.src_rank),
             .target_box = box_held_by(table.target, cell.target_boxes, share.dst_rank),
             .box = share.box});
      }
    }
    return pieces;
  }

  void add(const Move& move, std::int64_t elem_bytes) {
    const std::int64_t size_bytes = move.box.num_elements() * elem_bytes;
    if (move.src_rank == move.dst_rank) {
      plan_.traffic.kept_bytes += size_bytes;
      plan_.locals.push_back(move);
      return;
    }
    const bool is_send = move.src_rank == plan_.rank;
    PairList& list = is_send ? sends_[move.dst_rank] : receives_[move.src_rank];
    list.size_bytes = checked_add(list.size_bytes, size_bytes);
    list.moves.push_back(move);
  }

  const ShardMap& source_;
  const ShardMap& target_;
  Senders senders_;
  Plan plan_;
  std::map<StampKey, Stamp> stamps_;
  std::unordered_map<const Sharding*, std::uint64_t> hashes_;
  std::map<int, PairList> sends_;
  std::map<int, PairList> receives_;
};

}  // namespace

Plan part_of(const Plan& plan, const ShardMap& map, std::span<const TensorId> tensors) {
  return part_of(plan, map, [tensors](const Move& move) {
    return std::ranges::binary_search(tensors, move.tensor);
  });
}

Plan part_of(const Plan& plan,
             const ShardMap& map,
             const std::function<bool(const Move&)>& is_wanted) {
  const auto size_of = [&](const std::vector<Move>& moves) {
    std::int64_t bytes = 0;
    for (const Move& move : moves) {
      const std::int64_t elem_bytes = map.tensor(move.tensor).dtype.size_bytes;
      bytes = checked_add(bytes, checked_mul(num_elements(move.box.shape()), elem_bytes));
    }
    return bytes;
  };
  const auto wanted_moves = [&](const std::vector<Move>& moves) {
    std::vector<Move> wanted;
    std::ranges::copy_if(moves, std::back_inserter(wanted), is_wanted);
    return wanted;
  };
  const auto wanted_lists = [&](const std::vector<PairList>& lists) {
    std::map<int, PairList> part;
    for (const PairList& list : lists) {
      std::vector<Move> moves = wanted_moves(list.moves);
      if (!moves.empty()) {
        const std::int64_t bytes = size_of(moves);
        part[list.peer] = {.peer = list.peer, .moves = std::move(moves), .size_bytes = bytes};
      }
    }
    return finish(std::move(part));
  };
  Plan part;
  part.rank = plan.rank;
  part.sends = wanted_lists(plan.sends);
  part.receives = wanted_lists(plan.receives);
  part.locals = wanted_moves(plan.locals);
  part.adoptable = plan.adoptable;
  part.traffic.sent_bytes = total_bytes(part.sends);
  part.traffic.received_bytes = total_bytes(part.receives);
  part.traffic.kept_bytes = size_of(part.locals);
  return part;
}

std::uint64_t DecisionRecord::hash() const {
  Hasher hasher;
  hasher.add(static_cast<std::uint64_t>(node_of_rank.size()));
  for (const int node : node_of_rank) {
    hasher.add(node);
  }
  return hasher.digest();
}

int DecisionRecord::node_of(int rank) const {
  if (node_of_rank.empty()) {
    return 0;
  }
  const auto place = static_cast<std::size_t>(rank);
  if (place >= node_of_rank.size()) {
    throw LayoutError("plan: the decision record names the nodes of " +
                      std::to_string(node_of_rank.size()) + " ranks, but there is a rank " +
                      std::to_string(rank) + "\n  nothing was moved; the source state is intact\n" +
                      "  give one node per rank of the union of both worlds, or none at all");
  }
  return node_of_rank[place];
}

Plan make_plan(const ShardMap& source,
               const ShardMap& target,
               int rank,
               const DecisionRecord& record) {
  check_same_tensors(source, target);
  static_cast<void>(record.node_of(std::max({source.num_ranks(), target.num_ranks(), 1}) - 1));
  return Planner(source, target, rank, record).run();
}

}  // namespace dynatrain
