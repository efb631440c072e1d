#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/worker.hpp"

#include "membership/overloaded.hpp"
#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <variant>
#include <vector>

/// Many members and their coordinator on a network without faults. Members train in lock-step, one
/// step a tick; preparing and transfers take no time.
namespace dynatrain::membership::testing {

class Crowd {
 public:
  using Call = std::function<std::vector<CoordinatorAction>(
      Coordinator& machine, std::int64_t now_ms, const CoordinatorEvent& event)>;

  /// `call` stands around every call of the coordinator.
  Crowd(std::vector<LayoutChoice> layouts, Call call)
      : call_(std::move(call)), coordinator_(options(std::move(layouts)), {}, 0) {}

  /// One more process, which joins at its first tick.
  void add_member() {
    const MemberId id{members_.size() + 1};
    members_.push_back(Member{Worker({id, "host", make_deadlines()}, now_ms_)});
  }
  void leave(std::size_t index) { give(index, LeaveWanted{600'000}); }
  void kill(std::size_t index) {
    members_[index].is_dead = true;
    give_coordinator(ConnectionClosed{{index + 1}});
    deliver();
  }
  /// Lets time pass until a world of `epoch` stands with all its members training in it; false when
  /// that takes more than `limit_ms`.
  [[nodiscard]] bool reach(std::int64_t epoch, std::int64_t limit_ms = 60'000) {
    const std::int64_t end_ms = now_ms_ + limit_ms;
    while (now_ms_ < end_ms) {
      pass_tick();
      const World& world = coordinator_.durable().world;
      const bool is_there =
          world.epoch == epoch && std::ranges::all_of(world.members, [&](MemberId id) {
            return members_[id.value - 1].machine.epoch() == epoch;
          });
      if (is_there) {
        return true;
      }
    }
    return false;
  }
  void pass_tick() {
    now_ms_ += make_deadlines().tick_ms;
    give_coordinator(Tick{});
    deliver();
    for (std::size_t index = 0; index < members_.size(); ++index) {
      give(index, Tick{});
      Member& member = members_[index];
      if (std::exchange(member.trains, false)) {
        give(index, AtBoundary{member.machine.version() + 1});
      }
    }
    deliver();
  }
  /// Of the member that has sent and received most, without heartbeats and their answers.
  [[nodiscard]] std::int64_t most_messages() const {
    return std::ranges::max(members_, {}, &Member::num_messages).num_messages;
  }
  [[nodiscard]] std::int64_t num_published() const { return num_published_; }
  void count_anew() {
    std::ranges::for_each(members_, [](Member& member) { member.num_messages = 0; });
    num_published_ = 0;
  }
  [[nodiscard]] std::size_t size() const { return members_.size(); }
  [[nodiscard]] std::int64_t now_ms() const { return now_ms_; }
  [[nodiscard]] const World& world() const { return coordinator_.durable().world; }

 private:
  struct Member {
    Worker machine;
    std::int64_t num_messages = 0;
    bool trains = false;
    bool is_dead = false;
  };

  static CoordinatorOptions options(std::vector<LayoutChoice> layouts) {
    CoordinatorOptions made;
    made.policy = first_that_fits(std::move(layouts));
    return made;
  }
  void give_coordinator(const CoordinatorEvent& event) {
    for (CoordinatorAction& action : call_(coordinator_, now_ms_, event)) {
      if (auto* const send = std::get_if<Send>(&action)) {
        const std::size_t index = send->to.value - 1;
        members_[index].num_messages += std::holds_alternative<Heard>(send->message) ? 0 : 1;
        to_members_.emplace_back(index, std::move(send->message));
      } else if (std::holds_alternative<Publish>(action)) {
        ++num_published_;
      }
    }
  }
  void give(std::size_t index, const WorkerEvent& event) {
    if (members_[index].is_dead) {
      return;
    }
    for (const WorkerAction& action : members_[index].machine.handle(now_ms_, event)) {
      carry_out(index, action);
    }
  }
  void carry_out(std::size_t index, const WorkerAction& action) {
    Member& member = members_[index];
    std::visit(Overloaded{
                   [&](const Tell& one) {
                     const bool is_beat = std::holds_alternative<Heartbeat>(one.message);
                     member.num_messages += is_beat ? 0 : 1;
                     to_coordinator_.push_back(one.message);
                   },
                   [&](const Train&) { member.trains = true; },
                   [&](const RunPrepare& one) { give(index, PrepareDone{one.attempt}); },
                   [&](const RunSwitch& one) { give(index, SwitchMoved{one.attempt}); },
                   [&](const StopStep&) {
                     member.trains = false;
                     give(index, Stopped{member.machine.version(), true, {}});
                   },
                   [&](const FindVersions&) { give(index, Found{}); },
                   [&](const End&) { member.is_dead = true; },
                   [](const auto&) {},
               },
               action);
  }
  void deliver() {
    while (!to_coordinator_.empty() || !to_members_.empty()) {
      if (!to_members_.empty()) {
        const auto [index, message] = std::move(to_members_.front());
        to_members_.pop_front();
        give(index, message);
      } else {
        const FromWorker message = std::move(to_coordinator_.front());
        to_coordinator_.pop_front();
        give_coordinator(message);
      }
    }
  }

  Call call_;
  Coordinator coordinator_;
  std::vector<Member> members_;
  std::deque<FromWorker> to_coordinator_;
  std::deque<std::pair<std::size_t, FromCoordinator>> to_members_;
  std::int64_t now_ms_ = 0;
  std::int64_t num_published_ = 0;
};

}  // namespace dynatrain::membership::testing
