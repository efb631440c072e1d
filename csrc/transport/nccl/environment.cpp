#include "transport/nccl/environment.hpp"

#include <array>
#include <cstdlib>

namespace dynatrain {
namespace {

/// Each raises, above max_channels, how many channels one operation may take.
constexpr std::array kRaiseChannels{"NCCL_MAX_CTAS", "NCCL_MIN_CTAS", "NCCL_MIN_P2P_NCHANNELS"};

long number(const char* text) {
  return text == nullptr ? 0 : std::strtol(text, nullptr, 0);
}

}  // namespace

std::string environment_problem(const EnvironmentLookup& look_up, int max_channels) {
  if (number(look_up("NCCL_COMM_BLOCKING")) == 1) {
    return "NCCL_COMM_BLOCKING=1 takes the deadline from every call of NCCL: unset it";
  }
  for (const char* const name : kRaiseChannels) {
    if (const long value = number(look_up(name)); value > max_channels) {
      return std::string(name) + "=" + std::to_string(value) + " lets NCCL take more than the " +
             std::to_string(max_channels) +
             " channels that groups are cut for, and ranks could wait for each other forever: "
             "unset it, or lower it";
    }
  }
  return "";
}

}  // namespace dynatrain
