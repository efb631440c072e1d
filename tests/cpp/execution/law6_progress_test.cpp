// Law 6: no interleaving of ranks deadlocks.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// A few flat tensors that `num_ranks` ranks share by random cuts, some of them empty.
ShardMap random_flat_map(int num_ranks, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int> ranks;
  for (int rank = 0; rank < num_ranks; ++rank) {
    ranks.push_back(rank);
  }
  std::vector<ShardMap::Entry> entries;
  for (int i = 0; i < 3; ++i) {
    const Shape shape{61, 7, 5};
    std::vector<std::int64_t> bounds{0, num_elements(shape)};
    for (int rank = 1; rank < num_ranks; ++rank) {
      bounds.push_back(static_cast<std::int64_t>(random() % 2136));
    }
    std::sort(bounds.begin(), bounds.end());
    const std::vector<std::int64_t> offsets(ranks.size(), 3);
    std::shuffle(ranks.begin(), ranks.end(), random);
    entries.push_back({{"flat" + std::to_string(i) + "|param", shape, {"float32", 4}},
                       make_flat_sharding(shape, ranks, bounds, offsets)});
  }
  return ShardMap(std::move(entries));
}

struct ProgressCase {
  int num_ranks = 0;
  std::uint64_t seed = 0;
};

void make_progress(const ProgressCase& progress) {
  SCOPED_TRACE("ranks " + std::to_string(progress.num_ranks) + " seed " +
               std::to_string(progress.seed));
  const ShardMap source = random_flat_map(progress.num_ranks, progress.seed);
  const ShardMap target = random_flat_map(progress.num_ranks, progress.seed + 1000);
  SwitchCase what;
  what.loopback = {.rendezvous = true, .adversary_seed = progress.seed, .one_sided = false};
  // The least that the slack of 2 * num_ranks messages asks for, so that stages stay many.
  what.schedule.staging_budget_bytes = std::max(16384, 2048 * progress.num_ranks);
  what.schedule.direct_threshold_bytes = 64;
  what.schedule.min_message_bytes = 1;
  what.schedule.num_stages_to_overlap = 12;
  what.execute.timeout = std::chrono::seconds(60);
  const SwitchOutcome outcome = switch_over_loopback(source, target, what);
  EXPECT_GE(outcome.schedules.front().stages.size(), 8U);
  expect_identity(source, target, outcome);
}

// Without any buffer a send ends only when its receive is posted, and the adversary lets some ranks
// run as far ahead of others as the schedule permits: a wait for the wrong stage hangs here, in one
// second, instead of on a thousand GPUs.
TEST(Law6Progress, ZeroBufferTransportWithAdversaryNeverDeadlocks) {
  for (const int num_ranks : {2, 3, 5, 8, 16}) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      make_progress({.num_ranks = num_ranks, .seed = seed});
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST(Law6Progress, ThirtyTwoRanksMakeProgress) {
  make_progress({.num_ranks = 32, .seed = 7});
}

TEST(Law6ProgressLong, ManySeedsMakeProgress) {
  for (std::uint64_t seed = 100; seed < 150; ++seed) {
    make_progress({.num_ranks = 2 + static_cast<int>(seed % 31), .seed = seed});
    ASSERT_FALSE(HasFailure());
  }
}

/// Sends that have been asked for and are not under way yet.
class HeldSends final : public Completion {
 public:
  HeldSends(std::span<const WireMessage> messages, std::span<const Token> after, Deadline deadline)
      : messages_(messages.begin(), messages.end()),
        after_(after.begin(), after.end()),
        deadline_(deadline) {}

  void release(Transport& transport) {
    sent_ = transport.submit_sends(messages_, after_, deadline_);
    released_.set();
  }
  void fail(std::string_view reason) {
    released_.fail(std::make_exception_ptr(TransportError(std::string(reason), -1, -1, false)));
  }
  [[nodiscard]] bool done() const override { return released_.done() && sent_.done(); }
  void wait(Deadline deadline) override {
    released_.wait(deadline);
    sent_.wait(deadline);
  }

 private:
  std::vector<WireMessage> messages_;
  std::vector<Token> after_;
  Deadline deadline_;
  Token sent_;
  HostCompletion released_;
};

/// Holds the sends of each of the first stages until those of the next one are asked for, which
/// needs the token of its pack. Ranks that run one stage after another wait for ever over it.
class GatedTransport final : public Transport {
 public:
  static constexpr int kNumHeldStages = 4;

  explicit GatedTransport(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}

  [[nodiscard]] int rank() const override { return inner_->rank(); }
  [[nodiscard]] int size() const override { return inner_->size(); }
  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override {
    const int stage = num_batches_++ - 1;  // the first batch is agree()'s
    const bool is_held = stage >= 0 && stage < kNumHeldStages;
    auto held = is_held ? std::make_shared<HeldSends>(messages, after, deadline) : nullptr;
    if (const auto former = exchange_held(held)) {
      former->release(*inner_);
    }
    return is_held ? Token(held) : inner_->submit_sends(messages, after, deadline);
  }
  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override {
    return inner_->submit_receives(messages, after, deadline);
  }
  void abort(std::string_view reason) noexcept override {
    if (const auto held = exchange_held(nullptr)) {
      held->fail(reason);
    }
    inner_->abort(reason);
  }

 private:
  std::shared_ptr<HeldSends> exchange_held(std::shared_ptr<HeldSends> next) {
    const std::lock_guard lock(mutex_);  // the monitor's thread aborts
    return std::exchange(held_, std::move(next));
  }

  std::unique_ptr<Transport> inner_;
  std::mutex mutex_;
  std::shared_ptr<HeldSends> held_;
  int num_batches_ = 0;
};

// The overlap that makes a switch fast: the next stage is packed while this one's bytes travel. A
// run that does one stage after another is right in every other test, and half as fast.
TEST(StagePipeline, NextStageIsPackedWhileThisOneIsOnTheWire) {
  const ShardMap source = random_flat_map(4, 1);
  const ShardMap target = random_flat_map(4, 2);
  SwitchCase what;
  what.schedule.staging_budget_bytes = 16384;
  what.schedule.min_message_bytes = 1;
  what.schedule.num_stages_to_overlap = GatedTransport::kNumHeldStages + 2;
  what.execute.timeout = std::chrono::seconds(10);
  what.wrap = [](std::unique_ptr<Transport> inner, LoopbackWorld&) -> std::unique_ptr<Transport> {
    return std::make_unique<GatedTransport>(std::move(inner));
  };
  const SwitchOutcome outcome = switch_over_loopback(source, target, what);
  EXPECT_GT(std::ssize(outcome.schedules.front().stages), GatedTransport::kNumHeldStages);
  expect_identity(source, target, outcome);
}

// Two stages in flight and no more, as there are two slots.
TEST(StagePipeline, SpansCoverEveryPhaseAndKeepTheirOrderWithinAStage) {
  const ShardMap source = random_flat_map(4, 1);
  const ShardMap target = random_flat_map(4, 2);
  SwitchCase what;
  what.schedule.staging_budget_bytes = 16384;
  what.schedule.min_message_bytes = 1;
  what.schedule.num_stages_to_overlap = 6;
  const SwitchOutcome outcome = switch_over_loopback(source, target, what);
  expect_identity(source, target, outcome);
  using Phase = TraceSpan::Phase;
  for (std::size_t rank = 0; rank < outcome.results.size(); ++rank) {
    const auto find = [&](Phase phase, int stage) -> const TraceSpan* {
      const auto& spans = outcome.results[rank].spans;
      const auto it = std::find_if(spans.begin(), spans.end(), [&](const TraceSpan& span) {
        return span.phase == phase && span.stage == stage;
      });
      return it == spans.end() ? nullptr : &*it;
    };
    for (int k = 0; k < static_cast<int>(outcome.schedules[rank].stages.size()); ++k) {
      const TraceSpan* const wire = find(Phase::kWire, k);
      ASSERT_NE(wire, nullptr);
      for (const Phase phase : {Phase::kPack, Phase::kUnpack, Phase::kVerify}) {
        const TraceSpan* const span = find(phase, k);
        if (span != nullptr) {
          EXPECT_LE(span->begin_seconds, span->end_seconds);
          EXPECT_LE(span->end_seconds, outcome.results[rank].seconds);
        }
      }
      const TraceSpan* const old_verify = find(Phase::kVerify, k - 2);
      if (old_verify != nullptr) {
        EXPECT_LE(old_verify->end_seconds, wire->begin_seconds) << "a slot was taken too early";
      }
    }
    EXPECT_EQ(outcome.results[rank].staging_peak_bytes, outcome.schedules[rank].staging_peak_bytes);
  }
}

}  // namespace
}  // namespace dynatrain
