#include "dynatrain/membership/text.hpp"

#include "membership/simulation/simulation.hpp"
#include <utility>

namespace dynatrain::membership::simulation {
namespace {

/// What arrives of a message that travels as text.
Payload through_text(const Payload& payload) {
  if (const auto* const message = std::get_if<FromWorker>(&payload)) {
    return decode<FromWorker>(encode(*message));
  }
  return decode<FromCoordinator>(encode(std::get<FromCoordinator>(payload)));
}

}  // namespace

void Simulation::transmit(const Process& process, What what, Payload payload) {
  const std::size_t index = process.id.value - 1;
  if (process.is_beyond) {
    return;
  }
  if (scenario_.encodes) {
    payload = through_text(payload);
  }
  if (is_quiet()) {
    queue_.put(now_ms_ + 2, what, index, 0, std::move(payload));
    return;
  }
  const int num_copies = random_.percent(scenario_.double_percent) ? 2 : 1;
  for (int copy = 0; copy < num_copies; ++copy) {
    if (random_.percent(scenario_.loss_percent)) {
      continue;
    }
    const bool is_late = random_.percent(scenario_.late_percent);
    const std::int64_t delay_ms = is_late ? random_.between(20, 900) : random_.between(1, 6);
    queue_.put(now_ms_ + delay_ms, what, index, 0, payload);
  }
}

}  // namespace dynatrain::membership::simulation
