// Lines that members and operators send, each behind a byte of time, to a coordinator.
#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/trace.hpp"

#include "fuzz/machine.hpp"

namespace dynatrain::fuzz {
namespace {

using namespace membership;

Coordinator coordinator() {
  CoordinatorOptions options;
  options.policy = first_that_fits({{"dp=2", 2}, {"dp=1", 1}});
  return {options, {}, 0};
}

}  // namespace

std::vector<std::string> seeds() {
  return {timed_lines(lines_of_members()),
          timed_lines({encode(FromWorker{Join{{1}, "a"}}),
                       encode(CoordinatorEvent{Tick{}}),
                       encode(FromWorker{Report{{1}, 0, 0, false, {}}}),
                       encode(CoordinatorEvent{Tick{}}),
                       encode(FromWorker{Prepared{{1}, 1, 0}}),
                       encode(FromWorker{Vote{{1}, 1, true, ""}}),
                       encode(CoordinatorEvent{ConnectionClosed{{1}}})})};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  membership::Coordinator machine = fuzz::coordinator();
  std::vector<membership::Record> disk;
  const auto look = [&](const std::vector<membership::CoordinatorAction>& actions) {
    for (const auto& action : actions) {
      if (const auto* const persist = std::get_if<membership::Persist>(&action)) {
        disk.push_back(persist->record);
      }
    }
    fuzz::expect(replay_ledger(disk) == machine.durable(), "the ledger says what is known");
  };
  const std::string trace = fuzz::run<membership::CoordinatorEvent>(
      machine, fuzz::Draws(fuzz::text_of(data, size)), look);
  membership::Coordinator again = fuzz::coordinator();
  fuzz::expect(!replay_trace(again, trace).has_value(), "a trace runs again");
  return 0;
}
