// Lines that a coordinator sends and a process says, each behind a byte of time, to a member.
#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/trace.hpp"
#include "dynatrain/membership/worker.hpp"

#include "fuzz/machine.hpp"

namespace dynatrain::fuzz {
namespace {

using namespace membership;

Worker worker() {
  return {{{1}, "host", make_deadlines(), true, "seed=1", "machine"}, 0};
}

}  // namespace

std::vector<std::string> seeds() {
  return {timed_lines(lines_to_a_member()),
          timed_lines({encode(FromCoordinator{Welcome{}}),
                       encode(FromCoordinator{Prepare{1, ChangeKind::kRecovery, 0, false, 1, 0}}),
                       encode(WorkerEvent{PrepareDone{1}}),
                       encode(FromCoordinator{Go{1, 0, 0}}),
                       encode(WorkerEvent{AtBoundary{0}}),
                       encode(WorkerEvent{SwitchMoved{1}}),
                       encode(FromCoordinator{Decision{1, true, ""}}),
                       encode(WorkerEvent{AtBoundary{1}})})};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  membership::Worker machine = fuzz::worker();
  const auto look = [&](const std::vector<membership::WorkerAction>& /*actions*/) {
    static_cast<void>(machine.holds_because());
  };
  const std::string trace =
      fuzz::run<membership::WorkerEvent>(machine, fuzz::Draws(fuzz::text_of(data, size)), look);
  membership::Worker again = fuzz::worker();
  fuzz::expect(!replay_trace(again, trace).has_value(), "a trace runs again");
  return 0;
}
