#include "membership/simulation/simulation.hpp"

/// Policies of scripts: they answer late, or not at all, or with what makes no sense.
namespace dynatrain::membership::simulation {

void Simulation::tell_of_policy(Process& process) {
  const bool is_known = process.told_policy_to == num_coordinators_;
  if (process.has_policy && coordinator_ && !is_known && oracle_.has_joined(process.id)) {
    process.told_policy_to = num_coordinators_;
    feed_coordinator(Advises{process.id});
  }
}

void Simulation::consult(const Consult& consult) {
  if (!process_of(consult.to).has_policy) {
    throw Violation("member " + std::to_string(consult.to.value) + " has no policy to be asked");
  }
  if (!is_quiet() && random_.percent(20)) {
    return;
  }
  const std::int64_t late_ms = is_quiet() ? random_.between(0, 100)
                                          : random_.between(0, 3 * simulated_deadlines().advice_ms);
  queue_.put(now_ms_ + late_ms, What::kAdvice, num_coordinators_, consult.number);
}

void Simulation::answer(const Happening& happening) {
  if (!coordinator_ || happening.process != num_coordinators_) {
    return;  // an answer to a coordinator names it
  }
  Advice advice;
  advice.number = happening.token;
  if (is_quiet()) {
    const LayoutChoice& last = scenario_.layouts.back();
    advice.layout = last.layout;
    advice.world_size = last.world_size;
  } else if (random_.percent(15)) {
    advice.why = "it raised";
  } else if (random_.percent(80)) {
    advice.world_size = static_cast<int>(random_.between(1, scenario_.num_workers + 2));
    advice.layout = "tp=" + std::to_string(advice.world_size);
  }
  feed_coordinator(advice);
}

}  // namespace dynatrain::membership::simulation
