#include "membership/simulation/shrink.hpp"

#include <cstddef>

namespace dynatrain::membership::simulation {
namespace {

using StillFails = std::function<bool(const Scenario&)>;

/// Tries to leave out runs of incidents, long ones first. True when one could be.
bool drop_incidents(Scenario& scenario, const StillFails& still_fails) {
  bool has_dropped = false;
  for (std::size_t length = scenario.incidents.size(); length > 0; length /= 2) {
    for (std::size_t begin = 0; begin + length <= scenario.incidents.size();) {
      Scenario smaller = scenario;
      const auto first = smaller.incidents.begin() + static_cast<std::ptrdiff_t>(begin);
      smaller.incidents.erase(first, first + static_cast<std::ptrdiff_t>(length));
      if (still_fails(smaller)) {
        scenario = smaller;
        has_dropped = true;
      } else {
        ++begin;
      }
    }
  }
  return has_dropped;
}

/// Tries one smaller number.
template <class Number>
bool lower(Scenario& scenario,
           Number Scenario::* member,
           Number value,
           const StillFails& still_fails) {
  Scenario smaller = scenario;
  smaller.*member = value;
  if (scenario.*member == value || !still_fails(smaller)) {
    return false;
  }
  scenario = smaller;
  return true;
}

}  // namespace

Scenario shrunk(Scenario scenario, const StillFails& still_fails) {
  bool has_changed = true;
  while (has_changed) {
    has_changed = drop_incidents(scenario, still_fails);
    has_changed |= lower(scenario, &Scenario::loss_percent, 0, still_fails);
    has_changed |= lower(scenario, &Scenario::double_percent, 0, still_fails);
    has_changed |= lower(scenario, &Scenario::late_percent, 0, still_fails);
    has_changed |= lower(scenario, &Scenario::finish_at, std::int64_t{0}, still_fails);
    has_changed |= lower(scenario, &Scenario::encodes, false, still_fails);
    has_changed |= scenario.num_workers > 1 &&
                   lower(scenario, &Scenario::num_workers, scenario.num_workers - 1, still_fails);
  }
  return scenario;
}

}  // namespace dynatrain::membership::simulation
