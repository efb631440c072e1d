// Lines of messages, ledgers and traces. The first byte says as what the rest is read.
#include "dynatrain/membership/text.hpp"

#include "fuzz/membership_lines.hpp"
#include "fuzz/target.hpp"
#include <array>

namespace dynatrain::fuzz {
namespace {

using namespace membership;

template <class Value>
void read_as(std::string_view line) {
  Value read;
  if (is_taken([&] { read = decode<Value>(line); })) {
    expect(encode(read) == line, "a line that is read is the line that would be written");
  }
}

constexpr std::array kReaders{&read_as<FromWorker>,
                              &read_as<FromCoordinator>,
                              &read_as<CoordinatorEvent>,
                              &read_as<WorkerEvent>,
                              &read_as<Record>,
                              &read_as<Description>,
                              &read_as<CoordinatorAction>,
                              &read_as<WorkerAction>};

}  // namespace

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const std::string& line : lines_of_every_kind()) {
    for (std::size_t kind = 0; kind < kReaders.size(); ++kind) {
      all.push_back(static_cast<char>(kind) + line);
    }
  }
  return all;
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain::fuzz;
  Draws draws(text_of(data, size));
  kReaders.at(static_cast<std::size_t>(draws.number(0, kReaders.size() - 1)))(draws.rest());
  return 0;
}
