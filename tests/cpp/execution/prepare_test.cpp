// What a run needs is taken and made ahead of it.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/staging_arena.hpp"
#include "execution/switch_over_loopback.hpp"
#include "execution/wrapped_copier.hpp"
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// What a batch of a run carries once it has been prepared.
struct Table final : PreparedBatch {
  [[nodiscard]] std::int64_t size_bytes() const override { return 100 * num_copies; }
  std::int64_t num_copies = 0;
  std::uint64_t revision = 0;  ///< of the addresses
};

/// What a copier was asked for, and what a device's would have taken memory for.
struct Taken {
  int num_allocated = 0;
  std::int64_t reserved_copies = 0;
  std::int64_t num_prepared = 0;  ///< copies
  std::int64_t num_launched = 0;  ///< copies of prepared batches
  /// Copies of the largest batch that was not prepared, or for other addresses.
  std::int64_t largest_unprepared = 0;
};

class CountingCopier final : public WrappedCopier {
 public:
  explicit CountingCopier(Taken& taken) : taken_(taken) {}
  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place place) override {
    ++taken_.num_allocated;
    return WrappedCopier::allocate(size_bytes, place);
  }
  void reserve(std::int64_t num_copies, int /*num_batches*/) override {
    taken_.reserved_copies = num_copies;
  }
  std::vector<std::shared_ptr<PreparedBatch>> prepare(std::span<const CopyBatch* const> batches,
                                                      const AddressTable& addresses) override {
    std::vector<std::shared_ptr<PreparedBatch>> prepared;
    for (const CopyBatch* const batch : batches) {
      taken_.num_prepared += std::ssize(batch->copies);
      auto table = std::make_shared<Table>();
      table->num_copies = std::ssize(batch->copies);
      table->revision = addresses.revision();
      prepared.push_back(std::move(table));
    }
    return prepared;
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    const auto table = std::dynamic_pointer_cast<Table>(batch.prepared);
    if (table != nullptr && table->revision == addresses.revision()) {
      taken_.num_launched += std::ssize(batch.copies);
    } else {
      taken_.largest_unprepared = std::max(taken_.largest_unprepared, std::ssize(batch.copies));
    }
    return WrappedCopier::submit(batch, addresses, after);
  }

 private:
  Taken& taken_;
};

// Taking device memory stops the device, training streams too, and laying out a table costs a run
// what its launch does many times over: both are done ahead.
TEST(Prepare, RunTakesNoMemoryAndLaysNothingOut) {
  const ShardMap source = model_map(Layout::parse("dp=4"));
  const ShardMap target = model_map(Layout::parse("dp=2,tp=2"));
  for (const bool one_sided : {false, true}) {
    std::array<Taken, 4> taken{};
    std::array<int, 4> num_ahead{};
    SwitchCase what;
    what.loopback.one_sided = one_sided;
    what.make_copier = [&](int rank) {
      return std::make_unique<CountingCopier>(taken.at(static_cast<std::size_t>(rank)));
    };
    const auto before_run = [&](int rank, LoopbackWorld&, RunControl&) {
      const auto index = static_cast<std::size_t>(rank);
      num_ahead.at(index) = taken.at(index).num_allocated;
    };
    expect_identity(source, target, switch_over_loopback(source, target, what, before_run));
    for (std::size_t rank = 0; rank < num_ahead.size(); ++rank) {
      SCOPED_TRACE("rank " + std::to_string(rank) + (one_sided ? ", one-sided" : ", in stages"));
      EXPECT_GT(num_ahead.at(rank), 0);
      EXPECT_EQ(taken.at(rank).num_allocated, num_ahead.at(rank));
      EXPECT_GT(taken.at(rank).num_prepared, 0);
      EXPECT_EQ(taken.at(rank).num_launched, taken.at(rank).num_prepared);
      EXPECT_GE(taken.at(rank).reserved_copies, taken.at(rank).largest_unprepared);
    }
  }
}

/// Two runs of one executor of one rank, each between buffers of its own.
class TwoRuns : public ::testing::Test {
 protected:
  RunInputs inputs(RankBuffers& source, RankBuffers& target) {
    return {.plan = plan_,
            .schedule = schedule_,
            .source = map_,
            .target = map_,
            .source_memory = source.memory(),
            .target_memory = target.memory()};
  }
  std::unique_ptr<PreparedRun> prepare(RankBuffers& source, RankBuffers& target) {
    return executor_.prepare(inputs(source, target), {});
  }

  ShardMap map_ = model_map(Layout::parse("dp=1"));
  LoopbackWorld world_{1, {}};
  std::unique_ptr<Transport> transport_ = world_.transport(0);
  std::unique_ptr<Copier> copier_ = make_cpu_copier(1);
  Executor executor_{*transport_, *copier_, 0};
  Plan plan_ = make_plan(map_, map_, 0, {});
  Schedule schedule_ = make_schedule(plan_, map_, map_, 1, {});
  RankBuffers tags_ = tagged_buffers(map_, 0);
  RunControl control_;
};

// A prepared run is bound to its addresses; one that is prepared later must not change them.
TEST_F(TwoRuns, EachGoesWhereItWasPreparedFor) {
  RankBuffers first = empty_buffers(map_, 0);
  RankBuffers second = empty_buffers(map_, 0);
  const auto to_first = prepare(tags_, first);
  const auto to_second = prepare(tags_, second);
  executor_.run(*to_first, {}, control_);
  EXPECT_EQ(first_wrong(map_, 0, first), "");
  EXPECT_NE(first_wrong(map_, 0, second), "");
  executor_.run(*to_second, {}, control_);
  EXPECT_EQ(first_wrong(map_, 0, second), "");
}

// A budget counts it: a hundred thousand boxes take some ten megabytes of a device.
TEST_F(TwoRuns, SaysWhatItsTablesTakeOfTheDevice) {
  Taken taken;
  CountingCopier counting(taken);
  Executor executor(*transport_, counting, 0);
  RankBuffers target = empty_buffers(map_, 0);
  const auto prepared = executor.prepare(inputs(tags_, target), {});
  EXPECT_GT(taken.num_prepared, 0);
  EXPECT_EQ(prepared->table_bytes(), 100 * taken.num_prepared);
  executor.run(*prepared, {}, control_);
  EXPECT_EQ(prepared->table_bytes(), 100 * taken.num_prepared) << "the report comes after the run";
  EXPECT_EQ(prepare(tags_, target)->table_bytes(), 0) << "the host's copier needs none";
}

// Its tokens and sums are those of one run.
TEST_F(TwoRuns, OnePreparedRunDoesNotRunTwice) {
  RankBuffers target = empty_buffers(map_, 0);
  const auto prepared = prepare(tags_, target);
  executor_.run(*prepared, {}, control_);
  EXPECT_THROW(executor_.run(*prepared, {}, control_), InternalError);
}

// A switch that is prepared takes more staging than the one before; memory that one is bound to
// must not go away under it.
TEST(StagingArena, RunKeepsItsStagingWhenALaterOneTakesMore) {
  const auto copier = make_cpu_copier(1);
  LoopbackWorld world(1, {});
  const auto transport = world.transport(0);
  StagingArena arena;
  Schedule small;
  small.stages.resize(1);
  small.slot_bytes = 100;
  Schedule large = small;
  large.stages.resize(3);
  large.slot_bytes = 100'000;
  const std::shared_ptr<const Staging> first = arena.take(small, *transport, *copier);
  EXPECT_EQ(arena.take(small, *transport, *copier), first);
  std::memset(first->slot(0), 7, 100);
  const std::shared_ptr<const Staging> second = arena.take(large, *transport, *copier);
  EXPECT_NE(first->slot(0), second->slot(0));
  EXPECT_EQ(first->slot(0)[99], std::byte{7});
  EXPECT_GE(second->slot(1) - second->slot(0), 100'000);
  EXPECT_EQ(arena.take(small, *transport, *copier), second) << "there is room";
}

}  // namespace
}  // namespace dynatrain
