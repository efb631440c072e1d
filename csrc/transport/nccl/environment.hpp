#pragma once

#include <functional>
#include <string>

namespace dynatrain {

/// The value of an environment variable, or null.
using EnvironmentLookup = std::function<const char*(const char*)>;

/// Why NCCL's own variables make its communicators useless here; empty when they do not. NCCL lets
/// them override what a communicator is configured with, so a deadline could be lost, or the room
/// that groups are cut for. Source   src/init.cc (envConfigOverride) and src/graph/paths.cc
/// (ncclTopoComputeP2pChannels) of NCCL 2.27 to 2.30.
[[nodiscard]] std::string environment_problem(const EnvironmentLookup& look_up, int max_channels);

}  // namespace dynatrain
