#pragma once

// Reads the groups that all ranks posted and says whether NCCL could hang on them. Shares nothing
// with the rule by which the transport cuts; it knows NCCL's limits and what must hold at both
// ends.

#include "transport/nccl_fake.hpp"
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {

/// What one kernel plan of NCCL holds (src/enqueue.cc, scheduleP2pTasksToPlan and ncclTestBudget,
/// 2.27 to 2.30). A plan is closed before an operation for which it might have no room; where the
/// two ends of a pair close theirs at different operations, the kernels can wait for each other.
struct PlanBudget {
  int num_channels = 32;  ///< batches that one operation may take
  std::int64_t batch_bytes = 16;
  std::int64_t args_bytes = 4096 - 32;       ///< kernel arguments behind their head
  std::int64_t work_bytes = 128;             ///< of one operation; 64 in 2.30, never more than this
  std::int64_t fifo_bytes = (1 << 20U) / 2;  ///< half of the default work FIFO
};

class NcclGroupChecker {
 public:
  using Group = std::vector<FakeCluster::Op>;

  /// `groups_of_rank` is what each rank posted, in order.
  NcclGroupChecker(const std::vector<std::vector<Group>>& groups_of_rank,
                   const PlanBudget& budget) {
    for (std::size_t rank = 0; rank < groups_of_rank.size(); ++rank) {
      for (const Group& group : groups_of_rank[rank]) {
        read(static_cast<int>(rank), group, budget);
      }
    }
    link_ends();
    replay();
  }

  /// The first thing found; empty when NCCL cannot hang on these groups.
  [[nodiscard]] const std::string& fault() const { return fault_; }
  [[nodiscard]] int num_groups() const { return static_cast<int>(linked_to_.size()); }

 private:
  /// One end of a message: the group that it is in, and its bytes.
  using Ends = std::vector<std::pair<std::size_t, std::int64_t>>;

  void read(int rank, const Group& group, const PlanBudget& budget) {
    const auto num_ops = static_cast<std::int64_t>(group.size());
    expect(num_ops * budget.num_channels * budget.batch_bytes <= budget.args_bytes,
           rank,
           "a group with more batches than a kernel plan holds");
    expect(num_ops * budget.work_bytes <= budget.fifo_bytes,
           rank,
           "a group with more work than half of the FIFO holds");
    const std::size_t number = linked_to_.size();
    linked_to_.push_back(number);
    groups_of_[rank].push_back(number);
    for (const FakeCluster::Op& op : group) {
      Ends& ends = op.is_send ? sends_[{rank, op.peer}] : receives_[{op.peer, rank}];
      ends.emplace_back(number, op.size_bytes);
    }
  }

  /// The n-th send of a pair meets its n-th receive; the groups of both run at the same time.
  void link_ends() {
    for (const auto& [pair, receives] : receives_) {
      expect(sends_[pair].size() == receives.size(), pair.second, "receives that nobody sends");
    }
    for (const auto& [pair, sends] : sends_) {
      const Ends& receives = receives_[pair];
      expect(sends.size() == receives.size(), pair.first, "sends that nobody receives");
      for (std::size_t i = 0; i < sends.size() && i < receives.size(); ++i) {
        expect(sends[i].second == receives[i].second, pair.first, "a message of two sizes");
        linked_to_[first_of(sends[i].first)] = first_of(receives[i].first);
      }
    }
  }

  /// The one that stands for all groups that are linked.
  [[nodiscard]] std::size_t first_of(std::size_t group) const {
    while (linked_to_[group] != group) {
      group = linked_to_[group];
    }
    return group;
  }

  /// Linked groups end when all of them are the first of their ranks.
  void replay() {
    std::map<std::size_t, std::size_t> num_missing;  ///< by the group that stands for the others
    for (std::size_t group = 0; group < linked_to_.size(); ++group) {
      ++num_missing[first_of(group)];
    }
    std::map<std::size_t, std::vector<int>> waiting;  ///< ranks, by what they wait for
    std::vector<int> moving;
    for (const auto& [rank, groups] : groups_of_) {
      moving.push_back(rank);
    }
    std::map<int, std::size_t> num_ended;
    while (!moving.empty()) {
      const int rank = moving.back();
      moving.pop_back();
      if (num_ended[rank] == groups_of_[rank].size()) {
        continue;
      }
      const std::size_t linked = first_of(groups_of_[rank][num_ended[rank]]);
      waiting[linked].push_back(rank);
      if (--num_missing[linked] == 0) {
        for (const int ended : waiting[linked]) {
          ++num_ended[ended];
          moving.push_back(ended);
        }
      }
    }
    for (const auto& [rank, groups] : groups_of_) {
      expect(num_ended[rank] == groups.size(), rank, "groups that wait for each other");
    }
  }

  void expect(bool holds, int rank, const std::string& otherwise) {
    if (!holds && fault_.empty()) {
      fault_ = "rank " + std::to_string(rank) + " has " + otherwise;
    }
  }

  std::map<int, std::vector<std::size_t>> groups_of_;  ///< of each rank, in order
  std::vector<std::size_t> linked_to_;                 ///< by group; itself where it stands alone
  std::map<std::pair<int, int>, Ends> sends_;          ///< by (source, destination)
  std::map<std::pair<int, int>, Ends> receives_;       ///< the same
  std::string fault_;
};

}  // namespace dynatrain
