// CPU time of a coordinator that 1,024 members join, that changes its world twice, loses a member
// and recovers, over a network and members that cost it nothing. Only its own calls are timed.
// Prints one JSON document; never asserts.
//
//   cmake --build <folder> --target membership-benchmark &&
//   <folder>/benchmarks/dynatrain_membership

#include "membership/crowd.hpp"
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dynatrain::membership;  // NOLINT(google-build-using-namespace): a program

constexpr int kRuns = 21;  // the first one is told apart

/// Of this process: what others do on the machine does not count.
std::int64_t cpu_ns() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

struct Times {
  double join_ms = 0;
  double grow_ms = 0;
  double shrink_ms = 0;
  double recover_ms = 0;

  [[nodiscard]] double all_ms() const { return join_ms + grow_ms + shrink_ms + recover_ms; }
};

class Job {
 public:
  Job(int size, int spare)
      : spare_(spare),
        crowd_({{"all", size}, {"fewer", size - spare}},
               [this](Coordinator& machine, std::int64_t now_ms, const CoordinatorEvent& event) {
                 const std::int64_t begin_ns = cpu_ns();
                 std::vector<CoordinatorAction> actions = machine.handle(now_ms, event);
                 spent_ns_ += cpu_ns() - begin_ns;
                 return actions;
               }) {
    for (int i = 0; i < size - spare; ++i) {
      crowd_.add_member();
    }
  }

  [[nodiscard]] Times run() {
    Times times;
    times.join_ms = time_to(1);
    for (int i = 0; i < spare_; ++i) {
      crowd_.add_member();
    }
    times.grow_ms = time_to(2);
    for (int i = 0; i < spare_; ++i) {
      crowd_.leave(static_cast<std::size_t>(i));
    }
    times.shrink_ms = time_to(3);
    crowd_.add_member();  // takes the place of the one that is lost
    crowd_.kill(crowd_.size() - 2);
    times.recover_ms = time_to(4);
    return times;
  }

 private:
  double time_to(std::int64_t epoch) {
    if (!crowd_.reach(epoch)) {
      std::fprintf(stderr, "epoch %lld was not reached\n", static_cast<long long>(epoch));
      std::exit(1);
    }
    return static_cast<double>(std::exchange(spent_ns_, 0)) / 1e6;
  }

  int spare_;
  std::int64_t spent_ns_ = 0;
  testing::Crowd crowd_;
};

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("model name")) {
      return line.substr(line.find(':') + 2);
    }
  }
  return "unknown";
}

void print_row(const char* name, std::vector<double> runs, const char* end) {
  const double first = runs.front();
  runs.erase(runs.begin());
  std::ranges::sort(runs);
  std::printf(
      "    \"%s\": {\"median_ms\": %.2f, \"min_ms\": %.2f, \"p95_ms\": %.2f, \"first_ms\": "
      "%.2f}%s\n",
      name,
      runs[runs.size() / 2],
      runs.front(),
      runs[runs.size() * 95 / 100],
      first,
      end);
}

void print_size(int size, int spare, const char* end) {
  std::vector<double> join;
  std::vector<double> grow;
  std::vector<double> shrink;
  std::vector<double> recover;
  std::vector<double> all;
  for (int run = 0; run < kRuns; ++run) {
    const Times times = Job(size, spare).run();
    join.push_back(times.join_ms);
    grow.push_back(times.grow_ms);
    shrink.push_back(times.shrink_ms);
    recover.push_back(times.recover_ms);
    all.push_back(times.all_ms());
  }
  std::printf("  \"%d members, %d join and leave\": {\n", size, spare);
  print_row("first world", join, ",");
  print_row("grow", grow, ",");
  print_row("shrink", shrink, ",");
  print_row("recover", recover, ",");
  print_row("all", all, "");
  std::printf("  }%s\n", end);
}

void print_all() {
  std::printf("{\n  \"processor\": \"%s\",\n  \"compiler\": \"%s\",\n  \"runs\": %d,\n",
              processor().c_str(),
              __VERSION__,
              kRuns - 1);
  print_size(64, 8, ",");
  print_size(1024, 24, "");
  std::printf("}\n");
}

}  // namespace

int main() {
  try {
    print_all();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "membership: %s\n", error.what());
    return 1;
  }
  return 0;
}
