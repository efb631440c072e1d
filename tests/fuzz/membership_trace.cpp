// A trace from a file, given to both machines.
#include "dynatrain/membership/trace.hpp"

#include "fuzz/membership_lines.hpp"
#include "fuzz/target.hpp"
#include <limits>

namespace dynatrain::fuzz {
namespace {

using namespace membership;

std::string events(const std::vector<std::string>& lines,
                   std::int64_t now_ms,
                   std::int64_t step_ms) {
  std::string trace;
  for (const std::string& line : lines) {
    trace += std::to_string(now_ms) + " event " + line + '\n';
    now_ms += step_ms;
  }
  return trace;
}

}  // namespace

std::vector<std::string> seeds() {
  constexpr std::int64_t kLast = std::numeric_limits<std::int64_t>::max();
  return {events(lines_of_members(), 0, 700),
          events(lines_to_a_member(), 0, 700),
          events(lines_of_members(), kLast, 0),
          events(lines_to_a_member(), kMaxNumber, 0),
          "5 event " + encode(FromWorker{Join{{1}, "a"}}) + "\n5 action 1 send to=1 welcome\n"};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  membership::CoordinatorOptions options;
  options.policy = membership::first_that_fits({{"dp=2", 2}, {"dp=1", 1}});
  membership::Coordinator coordinator(options, {}, 0);
  membership::Worker worker({{1}, "host", membership::make_deadlines()}, 0);
  const std::string_view trace = fuzz::text_of(data, size);
  static_cast<void>(fuzz::is_taken([&] { static_cast<void>(replay_trace(coordinator, trace)); }));
  static_cast<void>(fuzz::is_taken([&] { static_cast<void>(replay_trace(worker, trace)); }));
  return 0;
}
