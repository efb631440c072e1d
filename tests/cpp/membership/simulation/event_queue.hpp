#pragma once

#include "dynatrain/membership/worker.hpp"

#include <cstdint>
#include <queue>
#include <utility>
#include <variant>
#include <vector>

namespace dynatrain::membership::simulation {

enum class What : std::uint8_t {
  kToCoordinator,
  kToWorker,
  kLocal,  ///< what a process tells its own machine
  kWorkerTick,
  kCoordinatorTick,
  kRestartCoordinator,
  kConnectionClosed,
  kAdvice,  ///< `process` is the coordinator's number, `token` the question's
  kStepRetry,
  kStepEnds,
  kStepTimesOut,
  kSwitchRetry,
  kSwitchEnds,
  kSwitchTimesOut,
  kIncident,
  kHeal,
  kStartProcess,
};

using Payload = std::variant<std::monostate, FromWorker, FromCoordinator, WorkerEvent>;

struct Happening {
  std::int64_t at_ms = 0;
  std::uint64_t order = 0;
  What what = What::kIncident;
  std::size_t process = 0;
  std::int64_t token = 0;
  std::size_t payload = 0;  ///< its place in the queue's store
};

/// What happens next. Equal times keep the order in which they were put.
class EventQueue {
 public:
  EventQueue() : store_(1) {}

  void put(
      std::int64_t at_ms, What what, std::size_t process, std::int64_t token, Payload payload) {
    std::size_t place = 0;
    if (!std::holds_alternative<std::monostate>(payload)) {
      place = take_place();
      store_[place] = std::move(payload);
    }
    heap_.push({at_ms, num_put_++, what, process, token, place});
  }
  void put(std::int64_t at_ms, What what, std::size_t process = 0, std::int64_t token = 0) {
    heap_.push({at_ms, num_put_++, what, process, token, 0});
  }
  /// Puts one that was taken off once more, payload and all.
  void put_again(Happening happening, std::int64_t at_ms) {
    happening.at_ms = at_ms;
    happening.order = num_put_++;
    heap_.push(happening);
  }
  [[nodiscard]] std::size_t size() const { return heap_.size(); }
  [[nodiscard]] Happening take() {
    const Happening happening = heap_.top();
    heap_.pop();
    return happening;
  }
  [[nodiscard]] Payload take_payload(const Happening& happening) {
    if (happening.payload == 0) {
      return {};
    }
    free_.push_back(happening.payload);
    return std::exchange(store_[happening.payload], {});
  }

 private:
  struct Later {
    bool operator()(const Happening& a, const Happening& b) const {
      return a.at_ms != b.at_ms ? a.at_ms > b.at_ms : a.order > b.order;
    }
  };
  std::size_t take_place() {
    if (free_.empty()) {
      store_.emplace_back();
      return store_.size() - 1;
    }
    const std::size_t place = free_.back();
    free_.pop_back();
    return place;
  }

  std::priority_queue<Happening, std::vector<Happening>, Later> heap_;
  std::vector<Payload> store_;
  std::vector<std::size_t> free_;
  std::uint64_t num_put_ = 0;
};

}  // namespace dynatrain::membership::simulation
