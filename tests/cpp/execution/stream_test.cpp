#include "dynatrain/execution/stream.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "plan/element_oracle.hpp"
#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::elements_of;

constexpr int kNumRanks = 4;
/// What freed memory is filled with; no tag has it.
constexpr std::byte kFreed{0xDD};

/// Tensors of one rank, two in each storage, one behind the other.
struct Packed {
  explicit Packed(const RankBuffers& buffers) {
    int num_in_last = 2;
    for (const std::vector<std::byte>& bytes : buffers.bytes) {
      offset_bytes.push_back(0);
      storages.of_tensor.push_back(Storages::kNone);
      if (bytes.empty()) {
        continue;
      }
      if (num_in_last == 2) {
        storages.size_bytes.push_back(0);
        num_in_last = 0;
      }
      ++num_in_last;
      offset_bytes.back() = storages.size_bytes.back();
      storages.of_tensor.back() = static_cast<int>(storages.size_bytes.size()) - 1;
      storages.size_bytes.back() += (std::ssize(bytes) + 15) / 8 * 8;
    }
  }

  /// Where a tensor lies in `blocks`; null where it has no storage, or the storage no memory.
  std::byte* find(std::vector<std::vector<std::byte>>& blocks, std::size_t tensor) const {
    const int storage = storages.of_tensor[tensor];
    if (storage == Storages::kNone || blocks[static_cast<std::size_t>(storage)].empty()) {
      return nullptr;
    }
    return blocks[static_cast<std::size_t>(storage)].data() + offset_bytes[tensor];
  }

  Storages storages;
  std::vector<std::int64_t> offset_bytes;
};

/// The memory that a run takes and frees of one rank.
class Blocks final : public StreamedMemory {
 public:
  /// `before_taking` is called before each storage is taken; it may throw.
  Blocks(const ShardMap& source, const ShardMap& target, int rank, std::function<void()> before)
      : source_bytes(tagged_buffers(source, rank)),
        target_bytes(empty_buffers(target, rank)),
        before_taking_(std::move(before)) {
    for (const std::int64_t size : packed_source.storages.size_bytes) {
      source_blocks.emplace_back(static_cast<std::size_t>(size));
      held_bytes_ += size;
    }
    most_bytes = held_bytes_;
    target_blocks.resize(packed_target.storages.size_bytes.size());
    is_freed.resize(source_blocks.size());
    for (std::size_t i = 0; i < source_bytes.bytes.size(); ++i) {
      if (std::byte* const at = packed_source.find(source_blocks, i); at != nullptr) {
        std::ranges::copy(source_bytes.bytes[i], at);
      }
    }
  }

  std::byte* take(int storage) override {
    before_taking_();
    auto& block = target_blocks[static_cast<std::size_t>(storage)];
    EXPECT_TRUE(block.empty()) << "storage " << storage << " is taken twice";
    const std::int64_t size = packed_target.storages.size_bytes[static_cast<std::size_t>(storage)];
    block.assign(static_cast<std::size_t>(size), std::byte{0xEE});
    held_bytes_ += size;
    most_bytes = std::max(most_bytes, held_bytes_);
    return block.data();
  }

  void free(int storage) noexcept override {
    std::ranges::fill(source_blocks[static_cast<std::size_t>(storage)], kFreed);
    is_freed[static_cast<std::size_t>(storage)] = true;
    held_bytes_ -= packed_source.storages.size_bytes[static_cast<std::size_t>(storage)];
  }

  /// The bytes of either side as they are now.
  void read_back() {
    for (std::size_t i = 0; i < source_bytes.bytes.size(); ++i) {
      if (const std::byte* at = packed_source.find(source_blocks, i); at != nullptr) {
        std::copy_n(at, source_bytes.bytes[i].size(), source_bytes.bytes[i].begin());
      }
      if (const std::byte* at = packed_target.find(target_blocks, i); at != nullptr) {
        std::copy_n(at, target_bytes.bytes[i].size(), target_bytes.bytes[i].begin());
      }
    }
  }

  [[nodiscard]] TensorMemory source_memory() {
    TensorMemory memory = source_bytes.memory();
    for (std::size_t i = 0; i < memory.base.size(); ++i) {
      memory.base[i] = packed_source.find(source_blocks, i);
    }
    return memory;
  }
  [[nodiscard]] TensorMemory target_sizes() {
    TensorMemory memory = target_bytes.memory();
    std::ranges::fill(memory.base, nullptr);
    return memory;
  }

  RankBuffers source_bytes;
  RankBuffers target_bytes;
  Packed packed_source{source_bytes};
  Packed packed_target{target_bytes};
  std::vector<std::vector<std::byte>> source_blocks;
  std::vector<std::vector<std::byte>> target_blocks;
  std::vector<bool> is_freed;
  std::int64_t most_bytes = 0;

 private:
  std::function<void()> before_taking_;
  std::int64_t held_bytes_ = 0;
};

/// What became of one rank.
struct Rank {
  Plan plan;
  Schedule schedule;
  std::unique_ptr<Blocks> blocks;
  StreamPlan streamed;
  RunControl control;
  std::string error;  ///< empty where it ended well
};

/// Called on a rank's thread before it takes the n-th storage of its target.
using Disturb = std::function<void(int rank, int number, LoopbackWorld& world)>;

/// Streams a tagged source into `target`, in at least `num_stages` stages.
std::vector<std::unique_ptr<Rank>> stream(const ShardMap& source,
                                          const ShardMap& target,
                                          int num_stages,
                                          const Disturb& disturb = {}) {
  LoopbackWorld world(kNumRanks, {.adversary_seed = static_cast<std::uint64_t>(num_stages)});
  std::vector<std::unique_ptr<Rank>> ranks;
  std::vector<int> last(source.num_tensors(), -1);
  for (int rank = 0; rank < kNumRanks; ++rank) {
    ranks.push_back(std::make_unique<Rank>());
    ranks.back()->plan = make_plan(source, target, rank, {});
    ranks.back()->schedule = make_schedule(ranks.back()->plan, source, target, num_stages, {});
    const std::vector<int> own = last_reads(ranks.back()->schedule, last.size());
    std::ranges::transform(last, own, last.begin(), [](int a, int b) { return std::max(a, b); });
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < kNumRanks; ++i) {
    Rank& rank = *ranks[static_cast<std::size_t>(i)];
    rank.blocks = std::make_unique<Blocks>(source, target, i, [&, i, number = 0]() mutable {
      if (disturb) {
        disturb(i, number++, world);
      }
    });
    rank.streamed = make_stream_plan(rank.schedule,
                                     last,
                                     rank.blocks->packed_source.storages,
                                     {},
                                     rank.blocks->packed_target.storages);
    threads.emplace_back([&, i] {
      try {
        const auto transport = world.transport(i);
        const auto copier = make_cpu_copier(1);
        Executor executor(*transport, *copier, 0);
        auto watermark = executor.make_watermark();
        executor.run(
            {.plan = rank.plan,
             .schedule = rank.schedule,
             .source = source,
             .target = target,
             .source_memory = rank.blocks->source_memory(),
             .target_memory = rank.blocks->target_sizes(),
             .streaming = Streaming{.plan = rank.streamed,
                                    .target = rank.blocks->packed_target.storages,
                                    .target_offset_bytes = rank.blocks->packed_target.offset_bytes,
                                    .memory = *rank.blocks,
                                    .watermark = *watermark}},
            {},
            rank.control);
        watermark.reset();  // at once: a run that has ended well leaves the transport as it is
        executor.agree(rank.plan, {});
      } catch (const std::exception& error) {
        rank.error = error.what();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const auto& rank : ranks) {
    rank->blocks->read_back();
  }
  return ranks;
}

template <class Check>
void for_pairs(const Check& check) {
  for (const Layout& source : layouts_of(kNumRanks, true)) {
    for (const Layout& target : layouts_of(kNumRanks, true)) {
      SCOPED_TRACE(source.to_string() + " -> " + target.to_string());
      check(model_map(source), model_map(target));
    }
  }
}

// Memory that is freed too early, or taken too late, brings other bytes.
TEST(Stream, BringsEveryElementWhileItFreesTheSource) {
  for_pairs([](const ShardMap& source, const ShardMap& target) {
    const auto ranks = stream(source, target, 12);
    for (int i = 0; i < kNumRanks; ++i) {
      Rank& rank = *ranks[static_cast<std::size_t>(i)];
      ASSERT_EQ(rank.error, "");
      EXPECT_EQ(first_wrong(target, i, rank.blocks->target_bytes), "");
      EXPECT_TRUE(std::ranges::all_of(rank.blocks->is_freed, std::identity()));
      EXPECT_EQ(rank.control.freed_stages, 12);
    }
  });
}

// Law 5: the peak is known before the first byte, and kept.
TEST(Stream, HoldsWhatItsPlanSays) {
  for_pairs([](const ShardMap& source, const ShardMap& target) {
    for (const auto& rank : stream(source, target, 12)) {
      EXPECT_EQ(rank->blocks->most_bytes, rank->streamed.peak_bytes);
      EXPECT_LT(
          rank->streamed.peak_bytes,
          source.bytes_of_rank(rank->plan.rank) + target.bytes_of_rank(rank->plan.rank) + 4096);
    }
  });
}

/// The elements of a tensor that all ranks have been told to hold still: in source storages that
/// are not freed, and in the target's parts of the stages that have landed.
std::set<std::int64_t> promised(const std::vector<std::unique_ptr<Rank>>& ranks,
                                const ShardMap& source,
                                const ShardMap& target,
                                std::size_t tensor) {
  std::set<std::int64_t> found;
  const auto landed = [&](const Rank& rank, const Part& part, const std::set<std::int64_t>& right) {
    if (part.tensor.index() != tensor) {
      return;
    }
    const auto elements = elements_of(source.tensor(part.tensor).shape, part.box);
    for (std::int64_t i = part.begin_elem; i < part.end_elem; ++i) {
      const auto element = static_cast<std::int64_t>(elements[static_cast<std::size_t>(i)]);
      EXPECT_TRUE(right.contains(element)) << "rank " << rank.plan.rank << " has not landed it";
      found.insert(element);
    }
  };
  for (const auto& rank : ranks) {
    const int storage = rank->blocks->packed_source.storages.of_tensor[tensor];
    if (storage != Storages::kNone && !rank->blocks->is_freed[static_cast<std::size_t>(storage)]) {
      found.merge(tagged_elements(source, rank->plan.rank, tensor, rank->blocks->source_bytes));
    }
    const std::set<std::int64_t> right =
        tagged_elements(target, rank->plan.rank, tensor, rank->blocks->target_bytes);
    for (int k = 0; k < rank->control.landed_stages; ++k) {
      const Stage& stage = rank->schedule.stages[static_cast<std::size_t>(k)];
      for (const StageMessage& message : stage.receives) {
        for (const Part& part : message.parts) {
          landed(*rank, part, right);
        }
      }
      for (const Part& part : stage.locals) {
        landed(*rank, part, right);
      }
    }
  }
  return found;
}

// A failed stream leaves one state in two halves. Were an element in neither, the month of training
// behind it would be lost.
TEST(Stream, WhateverFailsEveryElementIsStillSomewhere) {
  int num_freed = 0;
  for_pairs([&](const ShardMap& source, const ShardMap& target) {
    for (const int number : {0, 3, 5, 7}) {
      const auto ranks = stream(source, target, 12, [&](int rank, int taken, LoopbackWorld&) {
        if (rank == 1 && taken == number) {
          throw std::bad_alloc();
        }
      });
      for (const auto& rank : ranks) {
        num_freed += rank->control.freed_stages > 0 ? 1 : 0;
        const bool is_well = rank->error.empty();
        const int storages = static_cast<int>(ranks[1]->blocks->target_blocks.size());
        EXPECT_EQ(is_well, number >= storages) << rank->error;
        EXPECT_GE(rank->control.landed_stages, rank->control.freed_stages);
      }
      for (std::size_t t = 0; t < source.num_tensors(); ++t) {
        const LogicalTensor& tensor = source.tensor(TensorId(static_cast<std::int64_t>(t)));
        const auto all = tensor.size_bytes() / tensor.dtype.size_bytes;
        EXPECT_EQ(std::ssize(promised(ranks, source, target, t)), all) << tensor.name;
      }
    }
  });
  EXPECT_GT(num_freed, 100) << "hardly a failure came after something was freed";
}

// The others would wait for the dead rank's word to the end of their deadline.
TEST(Stream, RanksHearOfADeathWhereverTheyWait) {
  const ShardMap source = model_map(layouts_of(kNumRanks, false).front());
  const ShardMap target = model_map(layouts_of(kNumRanks, false).back());
  const auto ranks = stream(source, target, 12, [](int rank, int taken, LoopbackWorld& world) {
    if (rank == 2 && taken == 4) {
      world.kill(rank);
    }
  });
  for (const auto& rank : ranks) {
    EXPECT_NE(rank->error.find("rank 2"), std::string::npos) << rank->error;
    if (rank->control.freed_stages > 0) {
      EXPECT_NE(rank->error.find("the source of the first " +
                                 std::to_string(rank->control.freed_stages) + " stages is freed"),
                std::string::npos)
          << rank->error;
    }
  }
}

}  // namespace
}  // namespace dynatrain
