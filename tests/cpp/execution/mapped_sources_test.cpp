// What two ranks agree on when they map each other's sources, and what a run is refused for.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

/// One of two ranks that read each other in place.
struct Reader {
  Reader(LoopbackWorld& world, const ShardMap& from, const ShardMap& to, int rank)
      : source(from),
        target(to),
        plan(make_plan(from, to, rank, {})),
        buffers(tagged_buffers(from, rank)),
        arrived(empty_buffers(to, rank)),
        transport(world.transport(rank)) {}

  /// Maps by `plan`, and prepares a run of another plan or from other memory.
  std::unique_ptr<PreparedRun> prepare(const Plan& other, const TensorMemory& memory) {
    EXPECT_EQ(executor.map_sources(plan, source, buffers.memory(), {}).problem, "");
    return executor.prepare({.plan = other,
                             .schedule = schedule,
                             .source = source,
                             .target = target,
                             .source_memory = memory,
                             .target_memory = arrived.memory()},
                            {});
  }

  const ShardMap& source;
  const ShardMap& target;
  Plan plan;
  Schedule schedule = make_schedule(plan, source, target, 1, {});
  RankBuffers buffers;
  RankBuffers arrived;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Copier> copier = make_cpu_copier(1);
  Executor executor{*transport, *copier, 0};
};

void on_both(const std::function<void(Reader& reader)>& work) {
  const ShardMap source = model_map(Layout::parse("dp=2"));
  const ShardMap target = model_map(Layout::parse("tp=2"));
  LoopbackWorld world(2, {.one_sided = true});
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      Reader reader(world, source, target, rank);
      work(reader);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

// A rank whose buffers moved after they were mapped would be read where they no longer are.
TEST(MappedSources, ThatMovedOrAreOfAnotherPlanAreRefused) {
  on_both([](Reader& reader) {
    RankBuffers moved = reader.buffers;
    Plan receives_alone = reader.plan;
    receives_alone.sends.clear();
    EXPECT_THROW(reader.prepare(reader.plan, moved.memory()), InternalError);
    EXPECT_THROW(reader.prepare(receives_alone, reader.buffers.memory()), InternalError);
    EXPECT_NE(reader.prepare(reader.plan, reader.buffers.memory()), nullptr);
  });
}

// Were a move on both ways or on none, it would arrive twice or not at all.
TEST(MappedSources, AreRefusedWhereTheEndsOfAPairDivideItsListOtherwise) {
  on_both([](Reader& reader) {
    std::string text;
    if (reader.plan.rank == 0) {
      ++reader.plan.sends.front().moves.front().box.end[0];
    }
    try {
      static_cast<void>(
          reader.executor.map_sources(reader.plan, reader.source, reader.buffers.memory(), {}));
    } catch (const TransportError& error) {
      text = error.what();
    }
    const bool is_told = text.find("have different lists of moves") != std::string::npos;
    EXPECT_EQ(is_told, reader.plan.rank == 0) << text;
  });
}

}  // namespace
}  // namespace dynatrain
