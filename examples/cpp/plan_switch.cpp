// Plans a switch on paper, without torch, processes or GPUs: plan_switch dp=4 dp=2,tp=2
//
// The model is described, not built: 8 layers of one matrix, whose rows are cut over dp_shard and
// whose columns are cut over tp. Each rank's plan comes from the two maps alone.
#include "dynatrain/base/error.hpp"
#include "dynatrain/layout/layout.hpp"
#include "dynatrain/layout/shard_map.hpp"
#include "dynatrain/plan/plan.hpp"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

namespace {

constexpr int kNumLayers = 8;
constexpr int kRows = 4096;
constexpr int kColumns = 1024;

dynatrain::ShardMap describe(const dynatrain::Layout& layout) {
  using Kind = dynatrain::Placement::Kind;
  dynatrain::Mesh mesh;
  mesh.shape = {layout.size(dynatrain::Axis::kDpShard), layout.size(dynatrain::Axis::kTp)};
  mesh.ranks.resize(static_cast<std::size_t>(mesh.shape[0]) *
                    static_cast<std::size_t>(mesh.shape[1]));
  std::iota(mesh.ranks.begin(), mesh.ranks.end(), 0);
  const auto sharding = dynatrain::make_compact_sharding(
      mesh, {{.kind = Kind::kShard, .dim = 0}, {.kind = Kind::kShard, .dim = 1}});

  std::vector<dynatrain::ShardMap::Entry> entries;
  for (int layer = 0; layer < kNumLayers; ++layer) {
    const std::string name = "layers." + std::to_string(layer) + ".weight|param";
    const dynatrain::Shape shape{kRows, kColumns};
    entries.push_back({{name, shape, {"float32", 4}}, sharding});
  }
  return dynatrain::ShardMap(std::move(entries));
}

std::vector<dynatrain::Plan> plan_every_rank(const dynatrain::ShardMap& source,
                                             const dynatrain::ShardMap& target) {
  const dynatrain::DecisionRecord record;
  std::vector<dynatrain::Plan> plans;
  for (int rank = 0; rank < std::max(source.num_ranks(), target.num_ranks()); ++rank) {
    plans.push_back(make_plan(source, target, rank, record));
  }
  return plans;
}

void print(const std::vector<dynatrain::Plan>& plans) {
  std::printf("rank     sent MiB  received MiB      kept MiB  lower bound MiB\n");
  for (const dynatrain::Plan& plan : plans) {
    const auto mib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
    std::printf("%4d %12.2f %13.2f %13.2f %16.2f\n",
                plan.rank,
                mib(plan.traffic.sent_bytes),
                mib(plan.traffic.received_bytes),
                mib(plan.traffic.kept_bytes),
                mib(plan.traffic.lower_bound_bytes));
  }
}

int run(const std::string& source_text, const std::string& target_text) {
  const auto source = describe(dynatrain::Layout::parse(source_text));
  const auto target = describe(dynatrain::Layout::parse(target_text));
  const std::vector<dynatrain::Plan> plans = plan_every_rank(source, target);
  print(plans);

  const std::vector<std::string> faults = check_plans(source, target, plans);
  for (const std::string& fault : faults) {
    std::fprintf(stderr, "%s\n", fault.c_str());
  }
  std::printf("%s\n", faults.empty() ? "every element arrives exactly once" : "the plan is wrong");
  return faults.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr,
                 "usage: plan_switch <source layout> <target layout>, e.g. dp=4 dp=2,tp=2\n");
    return 2;
  }
  try {
    return run(argv[1], argv[2]);
  } catch (const dynatrain::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
