#include "transport/nccl/groups.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace dynatrain {
namespace {

/// How many pairs of a rank a group may hold, and how many operations of each.
struct GroupShape {
  int num_pairs = 1;
  int num_ops_per_pair = 1;
};

GroupShape shape_of(const GroupRule& rule) {
  const int num_pairs = std::clamp(rule.size - 1, 1, rule.max_ops_per_group);
  return {.num_pairs = num_pairs, .num_ops_per_pair = rule.max_ops_per_group / num_pairs};
}

/// By window (steps of the circle, some at a time) and slice (the n-th few operations of every pair
/// of the window). A rank that has nothing for one has no such group, and no number shifts.
using Groups = std::map<std::pair<int, std::int64_t>, OpGroup>;

class Cutter {
 public:
  explicit Cutter(const GroupRule& rule) : rule_(rule), shape_(shape_of(rule)) {}

  void add(std::span<const WireMessage> messages, bool is_send) {
    std::vector<WireMessage> ordered(messages.begin(), messages.end());
    std::ranges::stable_sort(ordered, {}, [](const WireMessage& message) {
      return std::pair(message.peer, message.tag);
    });
    int peer = -1;
    std::int64_t num_pieces = 0;
    for (const WireMessage& message : ordered) {
      num_pieces = message.peer == peer ? num_pieces : 0;
      peer = message.peer;
      for (std::int64_t begin = 0; begin < message.size_bytes; begin += rule_.piece_bytes) {
        group_of(peer, num_pieces++)
            .ops.push_back({.is_send = is_send,
                            .peer = peer,
                            .data = message.data + begin,
                            .size_bytes = std::min(rule_.piece_bytes, message.size_bytes - begin)});
      }
    }
  }

  [[nodiscard]] std::vector<OpGroup> take() {
    std::vector<OpGroup> groups;
    groups.reserve(groups_.size());
    for (auto& [place, group] : groups_) {
      groups.push_back(std::move(group));
    }
    return groups;
  }

 private:
  OpGroup& group_of(int peer, std::int64_t piece) {
    const int window = (rule_.rank + peer) % rule_.size / shape_.num_pairs;
    const std::int64_t slice = piece / shape_.num_ops_per_pair;
    return groups_[{window, slice}];
  }

  GroupRule rule_;
  GroupShape shape_;
  Groups groups_;
};

}  // namespace

std::vector<int> OpGroup::peers() const {
  std::vector<int> found;
  found.reserve(ops.size());
  for (const GroupOp& op : ops) {
    found.push_back(op.peer);
  }
  std::ranges::sort(found);
  const auto repeated = std::ranges::unique(found);
  found.erase(repeated.begin(), repeated.end());
  return found;
}

std::vector<OpGroup> cut_groups(const GroupRule& rule, const Exchange& step) {
  Cutter cutter(rule);
  cutter.add(step.sends, true);
  cutter.add(step.receives, false);
  return cutter.take();
}

}  // namespace dynatrain
