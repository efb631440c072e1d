#pragma once

#include "membership/simulation/scenario.hpp"
#include <functional>

namespace dynatrain::membership::simulation {

/// Leaves out whatever `still_fails` does without: incidents first, then faults of the network.
[[nodiscard]] Scenario shrunk(Scenario scenario,
                              const std::function<bool(const Scenario&)>& still_fails);

}  // namespace dynatrain::membership::simulation
