#pragma once

#include "dynatrain/membership/coordinator.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// A coordinator with a clock, a disk and an outbox, and the few events that most tests begin with.
namespace dynatrain::membership::testing {

/// The messages of one kind among actions.
template <class Message>
std::vector<std::pair<MemberId, Message>> sent(const std::vector<CoordinatorAction>& actions) {
  std::vector<std::pair<MemberId, Message>> found;
  for (const CoordinatorAction& action : actions) {
    const auto* const send = std::get_if<Send>(&action);
    if (send != nullptr && std::holds_alternative<Message>(send->message)) {
      found.emplace_back(send->to, std::get<Message>(send->message));
    }
  }
  return found;
}

template <class One>
std::vector<One> persisted(const std::vector<CoordinatorAction>& actions) {
  std::vector<One> found;
  for (const CoordinatorAction& action : actions) {
    const auto* const persist = std::get_if<Persist>(&action);
    if (persist != nullptr && std::holds_alternative<One>(persist->record)) {
      found.push_back(std::get<One>(persist->record));
    }
  }
  return found;
}

/// True when a record of this kind is to be on disk before the first message of that kind is sent.
template <class One, class Message>
bool is_persisted_before_told(const std::vector<CoordinatorAction>& actions) {
  bool is_on_disk = false;
  for (const CoordinatorAction& action : actions) {
    if (const auto* const persist = std::get_if<Persist>(&action)) {
      is_on_disk = is_on_disk || std::holds_alternative<One>(persist->record);
    } else if (const auto* const send = std::get_if<Send>(&action)) {
      if (std::holds_alternative<Message>(send->message)) {
        return is_on_disk;
      }
    }
  }
  return false;
}

class CoordinatorDesk {
 public:
  explicit CoordinatorDesk(std::vector<LayoutChoice> layouts)
      : layouts_(std::move(layouts)), machine_(options(), {}, 0) {}

  [[nodiscard]] CoordinatorOptions options() const {
    CoordinatorOptions made;
    made.policy = first_that_fits(layouts_);
    return made;
  }

  std::vector<CoordinatorAction> give(const CoordinatorEvent& event) {
    std::vector<CoordinatorAction> actions = machine_.handle(now_ms, event);
    for (const CoordinatorAction& action : actions) {
      if (const auto* const persist = std::get_if<Persist>(&action)) {
        disk.push_back(persist->record);
      } else if (const auto* const publish = std::get_if<Publish>(&action)) {
        published = publish->description;
      }
    }
    return actions;
  }
  std::vector<CoordinatorAction> wait(std::int64_t for_ms) {
    now_ms += for_ms;
    return give(Tick{});
  }
  /// As wait(), with a sign of life from each of `members` before the tick.
  std::vector<CoordinatorAction> wait_with(const std::vector<std::uint64_t>& members,
                                           std::int64_t for_ms) {
    now_ms += for_ms;
    std::vector<CoordinatorAction> all;
    const auto add = [&](const std::vector<CoordinatorAction>& actions) {
      all.insert(all.end(), actions.begin(), actions.end());
    };
    for (const std::uint64_t member : members) {
      add(give(Join{{member}, "host"}));  // doubled: it changes nothing
    }
    add(give(Tick{}));
    return all;
  }
  /// A member says what it finds on disk.
  std::vector<CoordinatorAction> find(std::uint64_t member,
                                      std::vector<std::int64_t> versions = {}) {
    return give(Report{{member}, durable().world.epoch, 0, false, std::move(versions)});
  }
  /// One joins, and says what it finds on disk where it is asked; what follows is returned.
  std::vector<CoordinatorAction> come(std::uint64_t member,
                                      const std::vector<std::int64_t>& on_disk = {}) {
    std::vector<CoordinatorAction> actions = give(Join{{member}, "host"});
    if (!sent<Search>(actions).empty()) {
      const auto more = find(member, on_disk);
      actions.insert(actions.end(), more.begin(), more.end());
    }
    return actions;
  }
  /// Members come, and membership settles: what is begun then is returned.
  std::vector<CoordinatorAction> join(const std::vector<std::uint64_t>& members,
                                      const std::vector<std::int64_t>& on_disk = {}) {
    for (const std::uint64_t member : members) {
      (void)come(member, on_disk);
    }
    return wait(deadlines().settle_ms);
  }
  std::vector<CoordinatorAction> prepare(const std::vector<std::uint64_t>& members,
                                         std::int64_t version = 0) {
    std::vector<CoordinatorAction> last;
    for (const std::uint64_t member : members) {
      last = give(Prepared{{member}, published.attempt, version});
    }
    return last;
  }
  std::vector<CoordinatorAction> promise(const std::vector<std::uint64_t>& members,
                                         std::int64_t proposal = 1) {
    std::vector<CoordinatorAction> last;
    for (const std::uint64_t member : members) {
      last = give(Promise{{member}, published.attempt, proposal, true, 0});
    }
    return last;
  }
  std::vector<CoordinatorAction> vote(const std::vector<std::uint64_t>& members) {
    std::vector<CoordinatorAction> last;
    for (const std::uint64_t member : members) {
      last = give(Vote{{member}, published.attempt, true, {}});
    }
    return last;
  }
  /// The first world, of these members.
  void make_world(const std::vector<std::uint64_t>& members) {
    (void)join(members);
    (void)prepare(members);
    (void)vote(members);
  }
  /// Loses the process, and starts another one from the disk.
  void restart() { machine_ = Coordinator(options(), replay_ledger(disk), now_ms); }

  [[nodiscard]] Status status() const { return machine_.status(now_ms); }
  [[nodiscard]] std::string why_not(const std::string& layout, std::int64_t epoch) const {
    return machine_.why_not(layout, epoch);
  }
  [[nodiscard]] const DurableState& durable() const { return machine_.durable(); }
  [[nodiscard]] static Deadlines deadlines() { return make_deadlines(); }

  std::int64_t now_ms = 0;
  std::vector<Record> disk;
  Description published;  ///< the last one

 private:
  std::vector<LayoutChoice> layouts_;
  Coordinator machine_;
};

[[nodiscard]] inline std::vector<LayoutChoice> two_or_one() {
  return {{"dp=2", 2}, {"dp=1", 1}};
}
[[nodiscard]] inline std::vector<LayoutChoice> up_to_three() {
  return {{"dp=3", 3}, {"dp=2", 2}, {"dp=1", 1}};
}

}  // namespace dynatrain::membership::testing
