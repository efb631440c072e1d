#include <gtest/gtest.h>

#include "transport/nccl/environment.hpp"
#include <map>
#include <string>

namespace dynatrain {
namespace {

std::string problem_of(const std::map<std::string, std::string>& variables) {
  return environment_problem(
      [&](const char* name) {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
      },
      32);
}

// NCCL lets the variable win over the configuration: every call would wait for the peers.
TEST(NcclEnvironment, BlockingCommunicatorsAreRefused) {
  EXPECT_NE(problem_of({{"NCCL_COMM_BLOCKING", "1"}}), "");
  EXPECT_EQ(problem_of({{"NCCL_COMM_BLOCKING", "0"}}), "");
}

// Groups are cut for 32 channels; with 64, two ranks may cut one group differently and hang.
TEST(NcclEnvironment, MoreChannelsThanGroupsAreCutForAreRefusedByName) {
  for (const std::string name : {"NCCL_MAX_CTAS", "NCCL_MIN_CTAS", "NCCL_MIN_P2P_NCHANNELS"}) {
    EXPECT_NE(problem_of({{name, "64"}}).find(name + "=64"), std::string::npos);
    EXPECT_EQ(problem_of({{name, "32"}}), "");
  }
}

// A job's usual variables must not cost it the transport.
TEST(NcclEnvironment, OtherVariablesAreNoProblem) {
  EXPECT_EQ(problem_of({{"NCCL_DEBUG", "INFO"}, {"NCCL_MAX_NCHANNELS", "64"}}), "");
}

}  // namespace
}  // namespace dynatrain
