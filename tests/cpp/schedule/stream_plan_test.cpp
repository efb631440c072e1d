#include "dynatrain/schedule/stream_plan.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "schedule/random_schedules.hpp"
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::Draw;
using testing::elements_of;
using testing::for_random_schedules;
using testing::holds;
using testing::Ownership;
using testing::Scheduled;

constexpr std::uint64_t kNumCases = 300;

/// The stage in which an element arrives at a rank, by tensor, element and rank.
using Arrivals = std::vector<std::vector<std::map<int, int>>>;

void note(const Scheduled& scheduled, const Part& part, int rank, int stage, Arrivals& arrivals) {
  const auto elements = elements_of(scheduled.source.tensor(part.tensor).shape, part.box);
  for (std::int64_t i = part.begin_elem; i < part.end_elem; ++i) {
    arrivals[part.tensor.index()][elements[static_cast<std::size_t>(i)]][rank] = stage;
  }
}

Arrivals arrivals_of(const Scheduled& scheduled) {
  Arrivals arrivals;
  for (const Ownership& owners : scheduled.pair.needed) {
    arrivals.emplace_back(owners.size());
  }
  for (const Schedule& schedule : scheduled.schedules) {
    for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
      for (const StageMessage& message : schedule.stages[k].receives) {
        for (const Part& part : message.parts) {
          note(scheduled, part, schedule.rank, static_cast<int>(k), arrivals);
        }
      }
      for (const Part& part : schedule.stages[k].locals) {
        note(scheduled, part, schedule.rank, static_cast<int>(k), arrivals);
      }
    }
  }
  return arrivals;
}

/// Puts the tensors that a rank holds anything of into a few storages.
Storages drawn_storages(Draw& draw, const std::vector<Ownership>& held, int rank) {
  Storages storages;
  storages.size_bytes.resize(static_cast<std::size_t>(draw.number(1, 4)));
  for (std::int64_t& size : storages.size_bytes) {
    size = draw.number(0, 1000);
  }
  for (const Ownership& owners : held) {
    const bool is_held = std::ranges::any_of(owners, [&](auto set) { return holds(set, rank); });
    storages.of_tensor.push_back(
        is_held ? static_cast<int>(draw.number(0, std::ssize(storages.size_bytes) - 1))
                : Storages::kNone);
  }
  return storages;
}

struct Planned {
  Storages source;
  Storages target;
  std::vector<int> kept;
  StreamPlan plan;
};

std::vector<int> last_reads_of_all(const Scheduled& scheduled) {
  std::vector<int> last(scheduled.source.num_tensors(), -1);
  for (const Schedule& schedule : scheduled.schedules) {
    const std::vector<int> own = last_reads(schedule, last.size());
    std::ranges::transform(last, own, last.begin(), [](int a, int b) { return std::max(a, b); });
  }
  return last;
}

Planned planned(const Scheduled& scheduled, const Schedule& schedule, Draw& draw) {
  Planned made{.source = drawn_storages(draw, scheduled.pair.held, schedule.rank),
               .target = drawn_storages(draw, scheduled.pair.needed, schedule.rank),
               .kept = {},
               .plan = {}};
  for (int storage = 0; storage < std::ssize(made.source.size_bytes); ++storage) {
    if (draw.one_in(4)) {
      made.kept.push_back(storage);
    }
  }
  made.plan =
      make_stream_plan(schedule, last_reads_of_all(scheduled), made.source, made.kept, made.target);
  return made;
}

/// The stage before which each storage is taken or freed; the number of stages where it is behind
/// the last. Fails where one is named twice.
std::map<int, int> times_of(const StreamPlan& plan, bool of_freed) {
  std::map<int, int> times;
  for (std::size_t k = 0; k < plan.stages.size(); ++k) {
    for (const int storage : of_freed ? plan.stages[k].freed : plan.stages[k].taken) {
      EXPECT_TRUE(times.emplace(storage, static_cast<int>(k)).second) << "twice: " << storage;
    }
  }
  for (const int storage : of_freed ? plan.freed_last : std::vector<int>()) {
    EXPECT_TRUE(times.emplace(storage, std::ssize(plan.stages)).second) << "twice: " << storage;
  }
  return times;
}

template <class Check>
void for_random_plans(const Check& check) {
  for_random_schedules(kNumCases, [&](const Scheduled& scheduled) {
    const Arrivals arrivals = arrivals_of(scheduled);
    Draw draw(scheduled.schedules.size() * 1000 + scheduled.schedules[0].stages.size());
    for (const Schedule& schedule : scheduled.schedules) {
      check(arrivals, schedule, planned(scheduled, schedule, draw));
    }
  });
}

// A rank that dies takes its own parts with it: what another one holds of them must still be there
// until every rank has got them, whoever sends them.
TEST(StreamPlan, FreesNothingThatSomeRankHasYetToLand) {
  for_random_plans([](const Arrivals& arrivals, const Schedule& schedule, const Planned& made) {
    const auto freed = times_of(made.plan, true);
    for (std::size_t storage = 0; storage < made.source.size_bytes.size(); ++storage) {
      const bool is_kept = std::ranges::count(made.kept, static_cast<int>(storage)) > 0;
      ASSERT_EQ(freed.contains(static_cast<int>(storage)), !is_kept);
      if (is_kept) {
        continue;
      }
      int last = -1;
      for (std::size_t t = 0; t < arrivals.size(); ++t) {
        if (made.source.of_tensor[t] == static_cast<int>(storage)) {
          for (const auto& of_element : arrivals[t]) {
            for (const auto& [rank, stage] : of_element) {
              last = std::max(last, stage);
            }
          }
        }
      }
      const int num_stages = static_cast<int>(schedule.stages.size());
      ASSERT_EQ(freed.at(static_cast<int>(storage)), std::min(last + 4, num_stages))
          << "rank " << schedule.rank << " storage " << storage;
    }
  });
}

// Bytes cannot land where there is no memory, and memory that is taken too early is what streaming
// is to save.
TEST(StreamPlan, TakesMemoryBeforeTheFirstStageThatWritesToIt) {
  for_random_plans([](const Arrivals& arrivals, const Schedule& schedule, const Planned& made) {
    const auto taken = times_of(made.plan, false);
    ASSERT_EQ(taken.size(), made.target.size_bytes.size());
    for (const auto& [storage, before] : taken) {
      int first = static_cast<int>(schedule.stages.size());
      for (std::size_t t = 0; t < arrivals.size(); ++t) {
        if (made.target.of_tensor[t] == storage) {
          for (const auto& of_element : arrivals[t]) {
            if (const auto own = of_element.find(schedule.rank); own != of_element.end()) {
              first = std::min(first, own->second);
            }
          }
        }
      }
      const bool is_written = first < std::ssize(schedule.stages);
      ASSERT_EQ(before, is_written ? first : 0) << "rank " << schedule.rank;
    }
  });
}

// `auto` chooses a mode, and refuses a switch, by this number.
TEST(StreamPlan, CountsWhatSourceAndTargetHoldTogether) {
  for_random_plans([](const Arrivals&, const Schedule& schedule, const Planned& made) {
    const auto freed = times_of(made.plan, true);
    const auto taken = times_of(made.plan, false);
    std::int64_t most = 0;
    for (int k = -1; k < std::ssize(schedule.stages); ++k) {
      std::int64_t held = 0;
      for (std::size_t s = 0; s < made.source.size_bytes.size(); ++s) {
        const auto time = freed.find(static_cast<int>(s));
        held += time == freed.end() || time->second > k ? made.source.size_bytes[s] : 0;
      }
      for (std::size_t s = 0; s < made.target.size_bytes.size(); ++s) {
        held += taken.at(static_cast<int>(s)) <= k ? made.target.size_bytes[s] : 0;
      }
      if (k >= 0) {
        ASSERT_EQ(made.plan.stages[static_cast<std::size_t>(k)].held_bytes, held);
      }
      most = std::max(most, held);
    }
    ASSERT_EQ(made.plan.peak_bytes, most);
  });
}

/// A model of equal layers, each tensor in a storage of its own.
struct Layers {
  static constexpr int kNumRanks = 4;
  static constexpr int kNumLayers = 64;
  static constexpr std::int64_t kElems = 1 << 16;

  /// Whole layers, `first_of[rank]` and the 15 behind it; or, without, a quarter of each layer.
  static ShardMap map(const std::vector<int>& first_of) {
    std::vector<ShardMap::Entry> entries;
    for (int layer = 0; layer < kNumLayers; ++layer) {
      Mesh mesh{.shape = {kNumRanks}, .ranks = {0, 1, 2, 3}};
      Placement place{.kind = Placement::Kind::kShard, .dim = 0};
      if (!first_of.empty()) {
        const auto owner = std::ranges::find_if(
            first_of, [&](int first) { return first <= layer && layer < first + 16; });
        mesh = {.shape = {1}, .ranks = {static_cast<int>(owner - first_of.begin())}};
      }
      const std::string number = std::to_string(layer);
      entries.push_back({{"layers." + std::string(2 - number.size(), '0') + number + "|param",
                          {kElems},
                          {"float32", 4}},
                         make_compact_sharding(std::move(mesh), {place})});
    }
    return ShardMap(std::move(entries));
  }
};

/// The peak of each rank beside what the larger of its source and target takes.
std::vector<double> peaks(const ShardMap& source, const ShardMap& target, int num_stages) {
  std::vector<Schedule> schedules;
  std::vector<int> last(source.num_tensors(), -1);
  for (int rank = 0; rank < Layers::kNumRanks; ++rank) {
    schedules.push_back(
        make_schedule(make_plan(source, target, rank, {}), source, target, num_stages, {}));
    const std::vector<int> own = last_reads(schedules.back(), last.size());
    std::ranges::transform(last, own, last.begin(), [](int a, int b) { return std::max(a, b); });
  }
  const auto storages_of = [](const ShardMap& map, int rank) {
    Storages storages;
    for (std::size_t i = 0; i < map.num_tensors(); ++i) {
      const auto fragments = map.fragments(TensorId(static_cast<std::int64_t>(i)), rank);
      storages.of_tensor.push_back(
          fragments.empty() ? Storages::kNone : static_cast<int>(storages.size_bytes.size()));
      for (const Fragment& fragment : fragments) {
        storages.size_bytes.push_back(fragment.box.num_elements() * 4);
      }
    }
    return storages;
  };
  std::vector<double> found;
  for (const Schedule& schedule : schedules) {
    const StreamPlan plan = make_stream_plan(
        schedule, last, storages_of(source, schedule.rank), {}, storages_of(target, schedule.rank));
    const auto larger =
        std::max(source.bytes_of_rank(schedule.rank), target.bytes_of_rank(schedule.rank));
    found.push_back(static_cast<double>(plan.peak_bytes) / static_cast<double>(larger));
  }
  return found;
}

// The promise: the larger of source and target, its largest storage, and the stages that not every
// rank is known to have landed.
TEST(StreamPlan, ThePeakIsNearTheLargerOfSourceAndTarget) {
  const ShardMap cut = Layers::map({});
  const ShardMap piped = Layers::map({0, 16, 32, 48});
  const ShardMap reversed = Layers::map({48, 32, 16, 0});
  const auto expect_below = [](const ShardMap& from, const ShardMap& to, double bound) {
    for (const double peak : peaks(from, to, 64)) {
      EXPECT_GE(peak, 1.0);
      EXPECT_LE(peak, bound);
    }
  };
  constexpr double kUnacknowledged = (kStagesUntilFreed + 1) / 64.0;
  constexpr double kOneOf16 = 1.0 / 16;
  expect_below(cut, piped, 1 + kUnacknowledged + kOneOf16);
  expect_below(piped, cut, 1 + kUnacknowledged + kOneOf16);
  expect_below(piped, reversed, 1 + kUnacknowledged + kOneOf16);
}

// Read by nobody or by another rank alone: a part whose sender is elsewhere stays as long as the
// sender's own.
TEST(StreamPlan, ALastReadIsTheLastStageThatSendsOrCopies) {
  Schedule schedule;
  schedule.stages.resize(3);
  const auto part = [](int tensor) {
    return Part{.tensor = TensorId(tensor), .box = {}, .begin_elem = 0, .end_elem = 1};
  };
  const auto message = [&](std::vector<int> tensors) {
    StageMessage made;
    std::ranges::transform(tensors, std::back_inserter(made.parts), part);
    return made;
  };
  schedule.stages[0].sends.push_back(message({0, 1}));
  schedule.stages[1].locals.push_back(part(1));
  schedule.stages[2].receives.push_back(message({2}));
  EXPECT_EQ(last_reads(schedule, 3), (std::vector<int>{0, 1, -1}));
}

// A bug elsewhere must not become a read of memory that nobody has.
TEST(StreamPlan, RefusesToReadWhatHasNoStorage) {
  Schedule schedule;
  schedule.stages.resize(1);
  schedule.stages[0].locals.push_back({.tensor = TensorId(0), .box = {}, .begin_elem = 0});
  const std::vector<int> last{0};
  const Storages none{.of_tensor = {Storages::kNone}, .size_bytes = {}};
  EXPECT_THROW(static_cast<void>(make_stream_plan(schedule, last, none, {}, none)), InternalError);
}

}  // namespace
}  // namespace dynatrain
