// A ledger that somebody else may have written to: a coordinator that begins from it works.
#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/ledger.hpp"
#include "dynatrain/membership/text.hpp"

#include "fuzz/membership_lines.hpp"
#include "fuzz/target.hpp"

namespace dynatrain::fuzz {
namespace {

using namespace membership;

void begin_from(const DurableState& durable) {
  CoordinatorOptions options;
  options.policy = first_that_fits({{"dp=2", 2}, {"dp=1", 1}});
  Coordinator machine(options, durable, 0);
  std::int64_t now_ms = 0;
  for (const CoordinatorEvent& event :
       {CoordinatorEvent{Tick{}}, CoordinatorEvent{Join{{3}, "c"}}, CoordinatorEvent{Tick{}}}) {
    now_ms += 600'000;
    for (const CoordinatorAction& action : machine.handle(now_ms, event)) {
      static_cast<void>(encode(action));
    }
  }
  static_cast<void>(machine.status(now_ms));
}

}  // namespace

std::vector<std::string> seeds() {
  std::string ledger;
  for (const std::string& line : lines_of_a_ledger()) {
    ledger += line + '\n';
  }
  return {ledger, ledger.substr(0, ledger.find("1 world-halted")), ""};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  fuzz::Draws draws(fuzz::text_of(data, size));
  membership::DurableState state;
  while (!draws.is_over()) {
    const std::string_view line = draws.until('\n');
    const membership::DurableState before = state;
    if (!fuzz::is_taken([&] { add_record(state, membership::decode<membership::Record>(line)); })) {
      fuzz::expect(state == before, "a record that is refused changes nothing");
    }
  }
  fuzz::begin_from(state);
  return 0;
}
