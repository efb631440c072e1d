#include "execution/verifying.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <string>

namespace dynatrain {
namespace {

bool carries_sums(const Schedule& schedule) {
  return std::ranges::any_of(schedule.stages, [](const Stage& stage) {
    const auto has_sums = [](const StageMessage& m) { return m.sums_offset_bytes >= 0; };
    return std::ranges::any_of(stage.sends, has_sums) ||
           std::ranges::any_of(stage.receives, has_sums);
  });
}

}  // namespace

bool compares_sums(const RunInputs& run) {
  return run.verify_sums && carries_sums(run.schedule);
}

void compare_sums(const RunInputs& run,
                  const PartCheck& check,
                  int stage,
                  std::uint64_t sent,
                  std::uint64_t received) {
  if (sent == received) {
    return;
  }
  throw TransportError("execution: '" + run.target.tensor(check.part->tensor).name +
                           "' arrived damaged\n  box " + check.part->box.to_string() +
                           ", elements " + std::to_string(check.part->begin_elem) + " to " +
                           std::to_string(check.part->end_elem) + ", from rank " +
                           std::to_string(check.peer) + ": the sender's sum is " +
                           std::to_string(sent) + ", the receiver's " + std::to_string(received) +
                           "\n  check memory and network of both hosts before trying again",
                       check.peer,
                       stage,
                       true);
}

}  // namespace dynatrain
