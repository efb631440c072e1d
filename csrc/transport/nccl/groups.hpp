#pragma once

#include "dynatrain/execution/transport.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dynatrain {

/// How one rank's exchanges are cut into groups. Equal on all ranks, `rank` apart.
struct GroupRule {
  int rank = 0;
  int size = 1;
  int max_ops_per_group = 3;  ///< in each direction
  std::int64_t piece_bytes = 64LL << 20U;
};

/// One ncclSend or ncclRecv.
struct GroupOp {
  bool is_send = false;
  int peer = 0;
  std::byte* data = nullptr;
  std::int64_t size_bytes = 0;
};

/// What goes out between one ncclGroupStart and ncclGroupEnd.
struct OpGroup {
  std::vector<GroupOp> ops;

  /// Peers of the operations, ascending, each once.
  [[nodiscard]] std::vector<int> peers() const;
};

/// Cuts one exchange into groups, in the order in which they have to be posted.
///
/// The pair (i, j) meets in step (i + j) mod size, in which every rank has one partner at most;
/// some consecutive steps are a window. Messages of a pair and direction are ordered by tag, cut
/// into pieces, and go a few pieces per slice. So both ends place every piece in the same (window,
/// slice) by what they both know, whatever else either of them has to do. Empty messages are left
/// out. Cost     O(messages and pieces, times their logarithm). Source   own;
/// docs/design/transport.md, "nccl".
[[nodiscard]] std::vector<OpGroup> cut_groups(const GroupRule& rule, const Exchange& step);

}  // namespace dynatrain
