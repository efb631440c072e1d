#pragma once

#include "dynatrain/membership/worker.hpp"

#include <cstdint>
#include <variant>
#include <vector>

/// A member's machine with a clock, and its way into a first world.
namespace dynatrain::membership::testing {

/// The actions of one kind.
template <class Action>
std::vector<Action> found(const std::vector<WorkerAction>& actions) {
  std::vector<Action> same;
  for (const WorkerAction& action : actions) {
    if (const auto* const one = std::get_if<Action>(&action)) {
      same.push_back(*one);
    }
  }
  return same;
}

/// The messages of one kind.
template <class Message>
std::vector<Message> told(const std::vector<WorkerAction>& actions) {
  std::vector<Message> same;
  for (const Tell& tell : found<Tell>(actions)) {
    if (const auto* const one = std::get_if<Message>(&tell.message)) {
      same.push_back(*one);
    }
  }
  return same;
}

class WorkerDesk {
 public:
  WorkerDesk() : machine({{1}, "host", make_deadlines()}, 0) {}

  std::vector<WorkerAction> give(const WorkerEvent& event) { return machine.handle(now_ms, event); }
  std::vector<WorkerAction> hear(const FromCoordinator& message) { return give(message); }
  std::vector<WorkerAction> wait(std::int64_t for_ms) {
    now_ms += for_ms;
    return give(Tick{});
  }
  /// Joins, and is in epoch 1 from step 0 on, which it trains.
  void begin_world() {
    (void)give(Tick{});
    (void)hear(Welcome{});
    (void)hear(Prepare{1, ChangeKind::kPlanned, 0, false, 1, 0});
    (void)give(PrepareDone{1});
    (void)hear(Go{1, 0, 0});
    (void)give(SwitchMoved{1});
    (void)hear(Decision{1, true, {}});
  }
  [[nodiscard]] static Deadlines deadlines() { return make_deadlines(); }

  std::int64_t now_ms = 0;
  Worker machine;
};

}  // namespace dynatrain::membership::testing
