#pragma once

// Reads the call logs of all ranks and says whether NCCL could hang on them. Shares nothing with
// the rule by which the transport cuts; it knows NCCL's limits and what must hold at both ends.

#include "transport/nccl/call_log.hpp"
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
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

class NcclLogChecker {
 public:
  NcclLogChecker(const std::vector<std::vector<NcclCall>>& logs, const PlanBudget& budget) {
    for (std::size_t rank = 0; rank < logs.size(); ++rank) {
      read(static_cast<int>(rank), logs[rank], budget);
    }
    compare_ends();
  }

  /// The first thing found; empty when NCCL cannot hang on these calls.
  [[nodiscard]] const std::string& fault() const { return fault_; }
  [[nodiscard]] int num_groups() const { return num_groups_; }

 private:
  /// (exchange, window, slice, bytes) of every operation, in order.
  using Ops = std::vector<std::tuple<std::int64_t, int, std::int64_t, std::int64_t>>;

  void read(int rank, const std::vector<NcclCall>& log, const PlanBudget& budget) {
    std::tuple<std::int64_t, int, std::int64_t> place(-1, -1, -1);
    std::int64_t num_ops = 0;
    bool is_inside = false;
    for (const NcclCall& call : log) {
      const std::tuple now(call.exchange, call.window, call.slice);
      const bool begins = call.kind == NcclCall::Kind::kGroupStart;
      expect(begins != is_inside, rank, "a call outside of a group, or a group in a group");
      expect(begins ? place < now : place == now, rank, "groups that are not in ascending order");
      place = now;
      is_inside = call.kind != NcclCall::Kind::kGroupEnd;
      if (begins) {
        num_ops = 0;
        ++num_groups_;
      } else if (is_inside) {
        ++num_ops;
        expect_room(num_ops, rank, budget);
        const bool is_send = call.kind == NcclCall::Kind::kSend;
        Ops& ops = is_send ? sends_[{rank, call.peer}] : receives_[{call.peer, rank}];
        ops.emplace_back(call.exchange, call.window, call.slice, call.size_bytes);
        windows_of_[{std::minmax(rank, call.peer), call.exchange}].push_back(call.window);
      }
    }
    expect(!is_inside, rank, "a group that does not end");
  }

  void expect_room(std::int64_t num_ops, int rank, const PlanBudget& budget) {
    expect(num_ops * budget.num_channels * budget.batch_bytes <= budget.args_bytes,
           rank,
           "a group with more batches than a kernel plan holds");
    expect(num_ops * budget.work_bytes <= budget.fifo_bytes,
           rank,
           "a group with more work than half of the FIFO holds");
  }

  void compare_ends() {
    for (const auto& [pair, ops] : sends_) {
      expect(receives_[pair] == ops, pair.first, "sends that do not meet their receives");
    }
    for (const auto& [pair, ops] : receives_) {
      expect(sends_[pair] == ops, pair.second, "receives that do not meet their sends");
    }
    for (const auto& [place, windows] : windows_of_) {
      const auto [least, most] = std::ranges::minmax(windows);
      expect(least == most, place.first.first, "a pair that meets in two windows of an exchange");
    }
  }

  void expect(bool holds, int rank, const std::string& otherwise) {
    if (!holds && fault_.empty()) {
      fault_ = "rank " + std::to_string(rank) + " has " + otherwise;
    }
  }

  std::map<std::pair<int, int>, Ops> sends_;     ///< by (source, destination)
  std::map<std::pair<int, int>, Ops> receives_;  ///< the same
  std::map<std::pair<std::pair<int, int>, std::int64_t>, std::vector<int>> windows_of_;
  std::string fault_;
  int num_groups_ = 0;
};

}  // namespace dynatrain
