#include "execution/switch_over_loopback.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <thread>
#include <utility>

namespace dynatrain {
namespace {

/// Visits the elements of a fragment: their offset in the buffer and their global index.
void for_each_element(const LogicalTensor& tensor,
                      const Fragment& fragment,
                      const std::function<void(std::int64_t, std::int64_t)>& visit) {
  Dims at = fragment.box.begin;
  const int rank = at.rank();
  for (std::int64_t left = fragment.box.num_elements(); left > 0; --left) {
    std::int64_t offset = fragment.view.offset_elems;
    std::int64_t index = 0;
    for (int d = 0; d < rank; ++d) {
      offset += (at[d] - fragment.box.begin[d]) * fragment.view.strides[d];
      index = index * tensor.shape[d] + at[d];
    }
    visit(offset, index);
    for (int d = rank - 1; d >= 0 && ++at[d] == fragment.box.end[d]; --d) {
      at[d] = fragment.box.begin[d];
    }
  }
}

std::uint64_t tag_of(std::size_t tensor, std::int64_t index) {
  std::uint64_t x = (static_cast<std::uint64_t>(tensor) << 40U) + static_cast<std::uint64_t>(index);
  x = (x + 1) * 0xbf58476d1ce4e5b9ULL;
  return x ^ (x >> 31U);
}

using Visit = std::function<void(std::byte* element, std::uint64_t tag, std::int64_t index)>;

void for_each_tag(
    const ShardMap& map, int rank, std::size_t tensor, std::byte* base, const Visit& visit) {
  const TensorId id(static_cast<std::int64_t>(tensor));
  const std::int64_t size = map.tensor(id).dtype.size_bytes;
  for (const Fragment& fragment : map.fragments(id, rank)) {
    for_each_element(map.tensor(id), fragment, [&](std::int64_t offset, std::int64_t index) {
      visit(base + offset * size, tag_of(tensor, index), index);
    });
  }
}

}  // namespace

TensorMemory RankBuffers::memory() {
  TensorMemory memory;
  for (std::vector<std::byte>& buffer : bytes) {
    memory.base.push_back(buffer.empty() ? nullptr : buffer.data());
    memory.size_bytes.push_back(std::ssize(buffer));
  }
  return memory;
}

RankBuffers empty_buffers(const ShardMap& map, int rank) {
  RankBuffers buffers;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    std::int64_t end = 0;
    for (const Fragment& fragment : map.fragments(id, rank)) {
      for_each_element(map.tensor(id), fragment, [&](std::int64_t offset, std::int64_t) {
        end = std::max(end, offset + 1);
      });
    }
    buffers.bytes.emplace_back(static_cast<std::size_t>(end * map.tensor(id).dtype.size_bytes),
                               std::byte{0xEE});
  }
  return buffers;
}

RankBuffers tagged_buffers(const ShardMap& map, int rank) {
  RankBuffers buffers = empty_buffers(map, rank);
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const auto size = static_cast<std::size_t>(
        map.tensor(TensorId(static_cast<std::int64_t>(i))).dtype.size_bytes);
    for_each_tag(
        map, rank, i, buffers.bytes[i].data(), [&](std::byte* element, std::uint64_t tag, auto) {
          std::memcpy(element, &tag, size);
        });
  }
  return buffers;
}

std::string first_wrong(const ShardMap& map, int rank, const RankBuffers& buffers) {
  std::string wrong;
  RankBuffers readable = buffers;
  for (std::size_t i = 0; i < map.num_tensors() && wrong.empty(); ++i) {
    const LogicalTensor& tensor = map.tensor(TensorId(static_cast<std::int64_t>(i)));
    for_each_tag(
        map,
        rank,
        i,
        readable.bytes[i].data(),
        [&](const std::byte* element, std::uint64_t tag, std::int64_t index) {
          if (wrong.empty() &&
              std::memcmp(element, &tag, static_cast<std::size_t>(tensor.dtype.size_bytes)) != 0) {
            wrong = tensor.name + " element " + std::to_string(index) + " on rank " +
                    std::to_string(rank);
          }
        });
  }
  return wrong;
}

std::set<std::int64_t> tagged_elements(const ShardMap& map,
                                       int rank,
                                       std::size_t tensor,
                                       const RankBuffers& buffers) {
  const auto size = static_cast<std::size_t>(
      map.tensor(TensorId(static_cast<std::int64_t>(tensor))).dtype.size_bytes);
  std::set<std::int64_t> tagged;
  RankBuffers readable = buffers;
  for_each_tag(map,
               rank,
               tensor,
               readable.bytes[tensor].data(),
               [&](const std::byte* element, std::uint64_t tag, std::int64_t index) {
                 if (std::memcmp(element, &tag, size) == 0) {
                   tagged.insert(index);
                 }
               });
  return tagged;
}

namespace {

/// The ranks of one pipeline stage as a mesh of (dp_replicate, dp_shard, tp).
Mesh stage_mesh(const Layout& layout, int pp_rank) {
  Mesh mesh{.shape = {layout.size(Axis::kDpReplicate),
                      layout.size(Axis::kDpShard),
                      layout.size(Axis::kTp)},
            .ranks = {}};
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    if (layout.coordinate(rank, Axis::kPp) == pp_rank) {
      mesh.ranks.push_back(rank);
    }
  }
  const auto place = [&](int rank) {
    return std::array{layout.coordinate(rank, Axis::kDpReplicate),
                      layout.coordinate(rank, Axis::kDpShard),
                      layout.coordinate(rank, Axis::kTp)};
  };
  std::sort(
      mesh.ranks.begin(), mesh.ranks.end(), [&](int a, int b) { return place(a) < place(b); });
  return mesh;
}

constexpr Placement kWhole{};

Placement shard(int dim, std::int64_t split_factor = 1) {
  return {.kind = Placement::Kind::kShard, .dim = dim, .split_factor = split_factor};
}

}  // namespace

ShardMap model_map(const Layout& layout) {
  constexpr int kNumLayers = 8;
  std::vector<ShardMap::Entry> entries;
  const int num_stages = layout.size(Axis::kPp);
  const int tp = layout.size(Axis::kTp);
  for (int stage = 0; stage < num_stages; ++stage) {
    const Mesh mesh = stage_mesh(layout, stage);
    const auto add = [&](int layer,
                         const char* name,
                         LogicalTensor tensor,
                         Placement dp_place,
                         Placement tp_place) {
      tensor.name = "layers." + std::to_string(layer) + name;
      entries.push_back(
          {std::move(tensor), make_compact_sharding(mesh, {kWhole, dp_place, tp_place})});
    };
    for (const Layout::LayerRange& range : layout.layers(stage, kNumLayers)) {
      for (int layer = range.begin; layer < range.end; ++layer) {
        add(layer, ".up|param", {"", {10, 6}, {"float32", 4}}, shard(0, tp), shard(0));
        add(layer, ".down|param", {"", {7, 9}, {"bfloat16", 2}}, shard(0), shard(1));
        add(layer, ".norm|exp_avg", {"", {5}, {"float64", 8}}, shard(0), kWhole);
        add(layer, ".mask|buffer", {"", {3, 2}, {"bool", 1}}, kWhole, kWhole);
      }
    }
  }
  std::vector<std::shared_ptr<const Sharding>> tied{
      make_compact_sharding(stage_mesh(layout, 0), {kWhole, shard(0), shard(1)})};
  if (num_stages > 1) {
    tied.push_back(
        make_compact_sharding(stage_mesh(layout, num_stages - 1), {kWhole, shard(0), shard(1)}));
  }
  entries.push_back({{"embed|param", {11, 4}, {"float32", 4}}, make_union_sharding(tied)});
  std::vector<int> all_ranks;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    all_ranks.push_back(rank);
  }
  entries.push_back({{"step|buffer", {}, {"float32", 4}}, make_replicated_sharding(all_ranks)});
  return ShardMap(std::move(entries));
}

namespace {

/// Maps while the source holds nothing of worth, as training goes on until the run.
DividedPlan map_ahead(Executor& executor,
                      const Plan& plan,
                      const ShardMap& map,
                      RankBuffers& source,
                      const ExecuteOptions& options) {
  const RankBuffers final_bytes = source;
  for (std::vector<std::byte>& buffer : source.bytes) {
    std::fill(buffer.begin(), buffer.end(), std::byte{0xAA});
  }
  DividedPlan divided = executor.map_sources(plan, map, source.memory(), options);
  for (std::size_t i = 0; i < source.bytes.size(); ++i) {
    std::ranges::copy(final_bytes.bytes[i], source.bytes[i].begin());
  }
  return divided;
}

/// One rank's runs of a switch: of the whole plan, or of the two that it was divided into.
class RankRuns {
 public:
  RankRuns(Executor& executor,
           const SwitchCase& what,
           std::pair<const ShardMap&, const ShardMap&> maps,
           std::size_t rank,
           SwitchOutcome& outcome)
      : executor_(executor),
        what_(what),
        maps_(maps),
        source_(outcome.source[rank]),
        target_(outcome.target[rank]) {
    const Plan& plan = outcome.plans[rank];
    const Schedule& schedule = outcome.schedules[rank];
    if (!what.map_ahead) {
      prepare(plan, schedule, what.allow_one_sided);
      return;
    }
    divided_ = map_ahead(executor, plan, maps.first, source_, what.execute);
    const int num_stages = static_cast<int>(schedule.stages.size());
    for (const Plan* const part : {&divided_.in_place, &divided_.by_messages}) {
      schedules_.push_back(
          make_schedule(*part, maps_.first, maps_.second, num_stages, what.schedule));
      prepare(*part, schedules_.back(), part == &divided_.in_place);
    }
  }

  /// What the last run says.
  RunResult run(RunControl& control) {
    RunResult result;
    for (const auto& prepared : prepared_) {
      result = executor_.run(*prepared, what_.execute, control);
    }
    return result;
  }

 private:
  void prepare(const Plan& plan, const Schedule& schedule, bool allow_one_sided) {
    prepared_.push_back(executor_.prepare({.plan = plan,
                                           .schedule = schedule,
                                           .source = maps_.first,
                                           .target = maps_.second,
                                           .source_memory = source_.memory(),
                                           .target_memory = target_.memory(),
                                           .verify_sums = what_.verify_sums,
                                           .allow_one_sided = allow_one_sided},
                                          what_.execute));
  }

  Executor& executor_;
  const SwitchCase& what_;
  std::pair<const ShardMap&, const ShardMap&> maps_;
  RankBuffers& source_;
  RankBuffers& target_;
  DividedPlan divided_;
  std::deque<Schedule> schedules_;
  std::vector<std::unique_ptr<PreparedRun>> prepared_;
};

}  // namespace

SwitchOutcome switch_over_loopback(
    const ShardMap& source,
    const ShardMap& target,
    const SwitchCase& what,
    const std::function<void(int, LoopbackWorld&, RunControl&)>& on_rank) {
  const int num_ranks = std::max(source.num_ranks(), target.num_ranks());
  SwitchOutcome outcome;
  int num_stages = 1;
  for (int rank = 0; rank < num_ranks; ++rank) {
    outcome.controls.push_back(std::make_unique<RunControl>());
    outcome.plans.push_back(make_plan(source, target, rank, {}));
    num_stages = std::max(num_stages, num_stages_wanted(outcome.plans.back(), what.schedule));
    outcome.source.push_back(tagged_buffers(source, rank));
    outcome.target.push_back(empty_buffers(target, rank));
  }
  for (const Plan& plan : outcome.plans) {
    outcome.schedules.push_back(make_schedule(plan, source, target, num_stages, what.schedule));
  }
  outcome.results.resize(static_cast<std::size_t>(num_ranks));
  outcome.errors.resize(static_cast<std::size_t>(num_ranks));
  LoopbackWorld world(num_ranks, what.loopback);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto index = static_cast<std::size_t>(rank);
      try {
        auto transport = world.transport(rank);
        if (what.wrap) {
          transport = what.wrap(std::move(transport), world);
        }
        const auto copier = what.make_copier(rank);
        Executor executor(*transport, *copier, 0);
        RunControl& control = *outcome.controls[index];
        executor.agree(outcome.plans[index], what.execute);
        RankRuns runs(executor, what, {source, target}, index, outcome);
        if (on_rank) {
          on_rank(rank, world, control);
        }
        outcome.results[index] = runs.run(control);
      } catch (...) {
        outcome.errors[index] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return outcome;
}

void expect_identity(const ShardMap& source, const ShardMap& target, const SwitchOutcome& outcome) {
  for (std::size_t i = 0; i < outcome.target.size(); ++i) {
    const int rank = static_cast<int>(i);
    try {
      if (outcome.errors[i] != nullptr) {
        std::rethrow_exception(outcome.errors[i]);
      }
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << rank << ": " << error.what();
      continue;
    }
    EXPECT_EQ(first_wrong(target, rank, outcome.target[i]), "");
    EXPECT_TRUE(outcome.source[i] == tagged_buffers(source, rank)) << "source of rank " << rank;
  }
}

std::vector<Layout> layouts_of(int world_size, bool with_replicate) {
  std::vector<Layout> layouts;
  for (int replicate = 1; replicate <= (with_replicate ? world_size : 1); ++replicate) {
    for (int dp = 1; dp <= world_size; ++dp) {
      for (int tp = 1; tp <= world_size; ++tp) {
        const int rest = replicate * dp * tp;
        if (rest <= world_size && world_size % rest == 0) {
          LayoutSpec spec;
          spec.dp_replicate = replicate;
          spec.dp_shard = dp;
          spec.tp = tp;
          spec.pp = world_size / rest;
          layouts.emplace_back(spec);
        }
      }
    }
  }
  return layouts;
}

}  // namespace dynatrain
