#include "membership/simulation/scenario.hpp"

#include "membership/simulation/random.hpp"
#include <algorithm>
#include <array>
#include <sstream>

namespace dynatrain::membership::simulation {
namespace {

constexpr std::array kNames{"join",
                            "crash",
                            "pause",
                            "close connection",
                            "partition",
                            "crash of the coordinator",
                            "resize",
                            "drain",
                            "leave",
                            "step failure",
                            "prepare failure",
                            "switch failure",
                            "slow switch",
                            "slow prepare"};

std::vector<LayoutChoice> draw_layouts(Random& random, int num_workers) {
  std::vector<LayoutChoice> layouts;
  for (int size = num_workers + 2; size >= 1; --size) {
    if (random.percent(50)) {
      layouts.push_back({"dp=" + std::to_string(size), size});
    }
  }
  if (layouts.empty() || (layouts.back().world_size > 1 && random.percent(70))) {
    layouts.push_back({"dp=1", 1});
  }
  return layouts;
}

Incident draw_incident(Random& random, std::int64_t quiet_at_ms, IncidentKind kind) {
  Incident incident;
  incident.at_ms = random.between(0, quiet_at_ms - 1);
  incident.kind = kind;
  incident.who = random.next() % 64;
  // Short ones hide in the deadlines, long ones pass them.
  incident.duration_ms = random.percent(50) ? random.between(20, 400) : random.between(400, 3000);
  incident.amount = random.between(0, 12);
  return incident;
}

}  // namespace

Scenario draw_scenario(std::uint64_t seed) {
  Random random(seed);
  Scenario scenario;
  scenario.seed = seed;
  scenario.num_workers =
      static_cast<int>(random.between(random.percent(20) ? 1 : 3, random.percent(5) ? 16 : 8));
  scenario.layouts = draw_layouts(random, scenario.num_workers);
  scenario.quiet_at_ms = random.between(1500, 8000);
  if (random.percent(60)) {
    scenario.loss_percent = static_cast<int>(random.between(0, 25));
    scenario.double_percent = static_cast<int>(random.between(0, 20));
    scenario.late_percent = static_cast<int>(random.between(0, 20));
  }
  scenario.is_replicated = random.percent(65);
  scenario.encodes = random.percent(5);
  if (random.percent(5)) {
    scenario.finish_at = random.between(5, 60);
  }
  const std::int64_t num_incidents = random.between(0, 24);
  for (std::int64_t i = 0; i < num_incidents; ++i) {
    // A third joins or resizes: without changes there is nothing to go wrong in.
    const std::int64_t draw = random.between(0, 19);
    const auto kind = draw >= static_cast<std::int64_t>(kNames.size())
                          ? (draw % 2 == 0 ? IncidentKind::kJoin : IncidentKind::kResize)
                          : static_cast<IncidentKind>(draw);
    scenario.incidents.push_back(draw_incident(random, scenario.quiet_at_ms, kind));
  }
  std::ranges::sort(scenario.incidents, {}, &Incident::at_ms);
  scenario.policy_percent = random.percent(30) ? 50 : 0;
  scenario.has_checkpoints = random.percent(40);
  if (scenario.has_checkpoints && random.percent(30)) {
    scenario.begin_at = random.between(1, 4);
  }
  if (random.percent(25) && scenario.layouts.size() > 1) {
    const auto last = static_cast<std::int64_t>(scenario.layouts.size()) - 1;  // can be taken
    scenario.refused =
        scenario.layouts[static_cast<std::size_t>(random.between(0, last - 1))].layout;
  }
  return scenario;
}

Scenario draw_calm_scenario(std::uint64_t seed) {
  Scenario scenario = draw_scenario(seed);
  scenario.loss_percent = 0;
  scenario.double_percent = 0;
  scenario.late_percent = 0;
  scenario.finish_at = 0;
  scenario.policy_percent = 0;
  std::erase_if(scenario.incidents, [](const Incident& incident) {
    return incident.kind != IncidentKind::kJoin && incident.kind != IncidentKind::kResize &&
           incident.kind != IncidentKind::kDrain;
  });
  return scenario;
}

std::string to_text(const Scenario& scenario) {
  std::ostringstream text;
  text << "seed " << scenario.seed << ": " << scenario.num_workers << " workers, layouts";
  for (const LayoutChoice& choice : scenario.layouts) {
    text << ' ' << choice.layout;
  }
  text << ", loss " << scenario.loss_percent << " %, doubled " << scenario.double_percent
       << " %, late " << scenario.late_percent << " %, "
       << (scenario.is_replicated ? "replicated" : "sharded")
       << (scenario.encodes ? ", as text" : "") << (scenario.has_checkpoints ? ", checkpoints" : "")
       << (scenario.policy_percent > 0 ? ", scripts with policies" : "");
  if (scenario.finish_at > 0) {
    text << ", finishes at version " << scenario.finish_at;
  }
  if (!scenario.refused.empty()) {
    text << ", refused " << scenario.refused;
  }
  if (scenario.begin_at > 0) {
    text << ", begins at version " << scenario.begin_at;
  }
  text << ", quiet at " << scenario.quiet_at_ms << " ms\n";
  for (const Incident& incident : scenario.incidents) {
    text << "  " << incident.at_ms << " ms: " << kNames.at(static_cast<std::size_t>(incident.kind))
         << ", who " << incident.who << ", for " << incident.duration_ms << " ms, amount "
         << incident.amount << '\n';
  }
  return text.str();
}

Deadlines simulated_deadlines() {
  Deadlines deadlines;
  deadlines.tick_ms = 90;
  deadlines.heartbeat_ms = 180;
  deadlines.lost_after_ms = 700;
  deadlines.settle_ms = 60;
  deadlines.advice_ms = 300;
  deadlines.promise_ms = 800;
  deadlines.hold_ms = 1100;
  deadlines.report_ms = 900;
  deadlines.prepare_ms = 1800;
  deadlines.vote_ms = 2500;
  deadlines.decision_ms = 3200;
  deadlines.abandon_ms = 12'000;
  deadlines.give_up_ms = 4000;
  deadlines.keep_ms = 1500;
  deadlines.back_off_ms = 100;
  deadlines.back_off_cap_ms = 800;
  return deadlines;
}

}  // namespace dynatrain::membership::simulation
