#include "dynatrain/plan/plan.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// Elements of `box` that lie in the disjoint `fragments`.
std::int64_t covered_elems(const Box& box, const std::vector<Fragment>& fragments) {
  std::int64_t elems = 0;
  for (const Fragment& fragment : fragments) {
    std::int64_t common = 1;
    for (int d = 0; d < box.rank(); ++d) {
      const std::int64_t begin = std::max(box.begin[d], fragment.box.begin[d]);
      const std::int64_t end = std::min(box.end[d], fragment.box.end[d]);
      common *= std::max<std::int64_t>(end - begin, 0);
    }
    elems += common;
  }
  return elems;
}

/// Judges the plans by volumes and by what arrives where; knows neither cells nor senders' rules.
class Checker {
 public:
  Checker(const ShardMap& source, const ShardMap& target, std::span<const Plan> plans)
      : source_(source), target_(target) {
    for (const Plan& plan : plans) {
      if (!plan_of_rank_.emplace(plan.rank, &plan).second) {
        violations_.push_back("two plans of rank " + std::to_string(plan.rank));
      }
    }
  }

  std::vector<std::string> run() {
    check_all_ranks_present();
    for (const auto& [rank, plan] : plan_of_rank_) {
      check_ends(*plan);
      arrivals_.clear();
      for (const PairList& list : plan->receives) {
        for (const Move& move : list.moves) {
          check_received(move, list.peer, rank);
        }
      }
      for (const Move& move : plan->locals) {
        check_local(move, rank);
      }
      check_arrivals(rank);
      check_traffic(*plan);
    }
    return std::move(violations_);
  }

 private:
  void check_all_ranks_present() {
    for (int rank = 0; rank < std::max(source_.num_ranks(), target_.num_ranks()); ++rank) {
      if (!plan_of_rank_.contains(rank)) {
        violations_.push_back("no plan of rank " + std::to_string(rank));
      }
    }
  }

  static const PairList* list_with(const std::vector<PairList>& lists, int peer) {
    const auto found = std::ranges::find(lists, peer, &PairList::peer);
    return found == lists.end() ? nullptr : &*found;
  }

  /// Both ends list the same moves in the same order; each list is asked from both of its ends.
  void check_ends(const Plan& plan) {
    const auto compare = [&](const PairList& list, bool is_send) {
      const auto other = plan_of_rank_.find(list.peer);
      const PairList* mirror =
          other == plan_of_rank_.end()
              ? nullptr
              : list_with(is_send ? other->second->receives : other->second->sends, plan.rank);
      if (mirror == nullptr || mirror->moves != list.moves || mirror->hash != list.hash ||
          mirror->size_bytes != list.size_bytes) {
        violations_.push_back("rank " + std::to_string(plan.rank) + " and rank " +
                              std::to_string(list.peer) + " list different moves from " +
                              std::to_string(is_send ? plan.rank : list.peer));
      }
    };
    for (const PairList& list : plan.sends) {
      compare(list, true);
    }
    for (const PairList& list : plan.receives) {
      compare(list, false);
    }
  }

  void check_received(const Move& move, int peer, int rank) {
    if (move.src_rank != peer || move.dst_rank != rank || peer == rank) {
      complain(move, "is listed for the wrong pair of ranks");
    }
    if (covered_elems(move.box, source_.fragments(move.tensor, rank)) != 0) {
      complain(move, "brings what the receiver holds already");
    }
    check_move(move);
  }

  void check_local(const Move& move, int rank) {
    if (move.src_rank != rank || move.dst_rank != rank) {
      complain(move, "is no local move of rank " + std::to_string(rank));
    }
    check_move(move);
  }

  void check_move(const Move& move) {
    const std::int64_t elems = move.box.num_elements();
    if (elems == 0) {
      complain(move, "is empty");
    }
    if (covered_elems(move.box, source_.fragments(move.tensor, move.src_rank)) != elems) {
      complain(move, "sends what the sender does not hold");
    }
    if (covered_elems(move.box, target_.fragments(move.tensor, move.dst_rank)) != elems) {
      complain(move, "brings what the receiver does not need");
    }
    arrivals_[move.tensor].push_back(move.box);
  }

  /// All arrivals lie in what is needed. If they also cover it and are no larger, they are
  /// disjoint.
  void check_arrivals(int rank) {
    for (std::size_t i = 0; i < target_.num_tensors(); ++i) {
      const TensorId id(static_cast<std::int64_t>(i));
      const std::vector<Box>& boxes = arrivals_[id];
      std::int64_t surplus = 0;
      for (const Box& box : boxes) {
        surplus += box.num_elements();
      }
      for (const Fragment& fragment : target_.fragments(id, rank)) {
        surplus -= fragment.box.num_elements();
        for (const Box& hole : uncovered(fragment.box, boxes)) {
          violations_.push_back(place(id, hole) + " never arrives at rank " + std::to_string(rank));
        }
      }
      if (surplus > 0) {
        violations_.push_back("'" + target_.tensor(id).name + "': " + std::to_string(surplus) +
                              " elements too many arrive at rank " + std::to_string(rank));
      }
    }
  }

  void check_traffic(const Plan& plan) {
    if (plan.traffic.received_bytes != plan.traffic.lower_bound_bytes) {
      violations_.push_back("rank " + std::to_string(plan.rank) + " receives " +
                            std::to_string(plan.traffic.received_bytes) + " bytes, but lacks " +
                            std::to_string(plan.traffic.lower_bound_bytes));
    }
  }

  void complain(const Move& move, const std::string& what) {
    violations_.push_back(place(move.tensor, move.box) + " from rank " +
                          std::to_string(move.src_rank) + " to rank " +
                          std::to_string(move.dst_rank) + " " + what);
  }

  [[nodiscard]] std::string place(TensorId id, const Box& box) const {
    return "'" + target_.tensor(id).name + "' " + box.to_string();
  }

  const ShardMap& source_;
  const ShardMap& target_;
  std::map<int, const Plan*> plan_of_rank_;
  std::map<TensorId, std::vector<Box>> arrivals_;
  std::vector<std::string> violations_;
};

}  // namespace

std::vector<std::string> check_plans(const ShardMap& source,
                                     const ShardMap& target,
                                     std::span<const Plan> plans) {
  return Checker(source, target, plans).run();
}

}  // namespace dynatrain
