#include "spin/worlds.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

namespace dynatrain::testing {
namespace {

using Shared = std::shared_ptr<const Sharding>;

const Shape kLayer{24, 24};

/// How each layer lies on the ranks, before and after.
struct Layers {
  std::string_view name;
  int num_ranks = 0;
  std::vector<Shared> source;
  std::vector<Shared> target;
  /// At this size and above, what lies without gaps goes directly.
  std::int64_t direct_threshold_bytes = 1 << 20;
  bool with_sums = false;
};

Shared cut(int dim, std::vector<int> ranks) {
  Mesh mesh{.shape = {static_cast<int>(ranks.size())}, .ranks = std::move(ranks)};
  return make_compact_sharding(std::move(mesh), {{.kind = Placement::Kind::kShard, .dim = dim}});
}

Shared whole_on(int rank) {
  return make_replicated_sharding({rank});
}

Shared flat(std::vector<int> ranks, std::vector<std::int64_t> bounds) {
  const std::vector<std::int64_t> offsets(ranks.size(), 0);
  return make_flat_sharding(kLayer, ranks, bounds, offsets);
}

/// Data parallel shards that become tensor parallel ones: every rank sends to every other.
Layers dp_to_tp(std::string_view name, std::vector<int> ranks) {
  return {.name = name,
          .num_ranks = static_cast<int>(ranks.size()),
          .source = {cut(0, ranks)},
          .target = {cut(1, ranks)}};
}

/// Every layer goes to the stage at the other end of the pipeline.
Layers pp_reversed(std::string_view name, int num_ranks, int layers_each) {
  Layers layers{.name = name, .num_ranks = num_ranks, .source = {}, .target = {}};
  for (int i = 0; i < num_ranks * layers_each; ++i) {
    layers.source.push_back(whole_on(i / layers_each));
    layers.target.push_back(whole_on(num_ranks - 1 - (i / layers_each)));
  }
  return layers;
}

/// Every layer goes to the next stage of the pipeline: a ring.
Layers pp_rotated(std::string_view name, int num_ranks, int layers_each) {
  Layers layers{.name = name, .num_ranks = num_ranks, .source = {}, .target = {}};
  for (int i = 0; i < num_ranks * layers_each; ++i) {
    layers.source.push_back(whole_on(i / layers_each));
    layers.target.push_back(whole_on((i / layers_each + 1) % num_ranks));
  }
  return layers;
}

Layers with_direct(Layers layers) {
  layers.direct_threshold_bytes = 64;
  layers.with_sums = true;
  return layers;
}

std::vector<Layers> all_layers() {
  return {
      dp_to_tp("dp_to_tp_2", {0, 1}),
      dp_to_tp("dp_to_tp_3", {0, 1, 2}),
      dp_to_tp("dp_to_tp_4", {0, 1, 2, 3}),
      pp_reversed("pp_reversed_2", 2, 3),
      pp_reversed("pp_reversed_3", 3, 2),
      pp_reversed("pp_reversed_4", 4, 1),
      pp_rotated("pp_rotated_3", 3, 2),
      pp_rotated("pp_rotated_4", 4, 1),
      // Packed messages beside direct ones: those are read and written where the state lies.
      with_direct(pp_reversed("direct_2", 2, 1)),
      // A rank that gives most of it away, one that has little and keeps it, one that takes most.
      {.name = "uneven_3",
       .num_ranks = 3,
       .source = {flat({0, 1, 2}, {0, 400, 416, 576}), flat({0, 1, 2}, {0, 8, 568, 576})},
       .target = {flat({0, 1, 2}, {0, 80, 96, 576}), flat({0, 1, 2}, {0, 280, 560, 576})}},
      // Two ranks neither send nor receive, but are as much of the world as the others.
      {.name = "without_traffic_4",
       .num_ranks = 4,
       .source = {cut(0, {0, 1}), whole_on(2)},
       .target = {cut(1, {0, 1}), whole_on(2)}},
      // No message at all: what is left are the words of ranks that stream.
      {.name = "still_3",
       .num_ranks = 3,
       .source = {cut(0, {0, 1, 2})},
       .target = {cut(0, {0, 1, 2})}},
      // One rank gives all and stays without, one gets all.
      {.name = "one_way_3",
       .num_ranks = 3,
       .source = {whole_on(0), whole_on(0), whole_on(0)},
       .target = {cut(0, {1, 2}), whole_on(1), whole_on(2)}},
  };
}

Layers layers_of(std::string_view name) {
  std::string known;
  for (Layers& layers : all_layers()) {
    if (layers.name == name) {
      return std::move(layers);
    }
    known += " " + std::string(layers.name);
  }
  throw std::invalid_argument("no world '" + std::string(name) + "'; there are:" + known);
}

ShardMap map_of(const std::vector<Shared>& shardings) {
  std::vector<ShardMap::Entry> entries;
  for (const Shared& sharding : shardings) {
    const std::string name = "layers." + std::to_string(entries.size()) + "|param";
    entries.push_back({{name, kLayer, {"float32", 4}}, sharding});
  }
  return ShardMap(std::move(entries));
}

}  // namespace

World make_world(std::string_view name, int num_stages) {
  const Layers layers = layers_of(name);
  World world{.num_ranks = layers.num_ranks,
              .source = map_of(layers.source),
              .target = map_of(layers.target),
              .options = {.direct_threshold_bytes = layers.direct_threshold_bytes,
                          .with_sums = layers.with_sums},
              .plans = {},
              .schedules = {},
              .held = {},
              .needed = {},
              .streams = {}};
  std::vector<int> last(world.source.num_tensors(), -1);
  for (int rank = 0; rank < world.num_ranks; ++rank) {
    world.plans.push_back(make_plan(world.source, world.target, rank, {}));
    world.schedules.push_back(
        make_schedule(world.plans.back(), world.source, world.target, num_stages, world.options));
    const std::vector<int> own = last_reads(world.schedules.back(), last.size());
    std::ranges::transform(last, own, last.begin(), [](int a, int b) { return std::max(a, b); });
  }
  for (int rank = 0; rank < world.num_ranks; ++rank) {
    world.held.push_back(storages_of(world.source, rank));
    world.needed.push_back(storages_of(world.target, rank));
    const Schedule& schedule = world.schedules[static_cast<std::size_t>(rank)];
    world.streams.push_back(
        make_stream_plan(schedule, last, world.held.back(), {}, world.needed.back()));
  }
  return world;
}

}  // namespace dynatrain::testing
