// What a run has opened or posted ends with it, however it ends.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "execution/wrapped_copier.hpp"
#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// What a rank has open at its one-sided part.
struct Open {
  bool is_published = false;
  bool is_mapped = false;
  bool can_expose = true;
};

/// A transport that tells what is open, and which operations were posted.
class WatchedTransport final : public Transport, public OneSided {
 public:
  WatchedTransport(std::unique_ptr<Transport> inner, Open& open)
      : inner_(std::move(inner)), open_(open) {}

  [[nodiscard]] int rank() const override { return inner_->rank(); }
  [[nodiscard]] int size() const override { return inner_->size(); }
  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override {
    if (throws_at_sends) {
      throw std::runtime_error("no thread for the messages");
    }
    return posted.emplace_back(inner_->submit_sends(messages, after, deadline));
  }
  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override {
    return posted.emplace_back(inner_->submit_receives(messages, after, deadline));
  }
  void abort(std::string_view reason) noexcept override {
    was_open_at_abort = open_.is_published;
    inner_->abort(reason);
  }
  [[nodiscard]] OneSided* one_sided() noexcept override { return this; }

  [[nodiscard]] bool reaches(int peer) const override { return inner_->one_sided()->reaches(peer); }
  Unreadable publish(std::span<const ExposedBuffer> buffers) override {
    open_.is_published = true;
    open_.is_mapped = true;
    inner_->one_sided()->publish(buffers);
    return {.buffers = {}, .reason = open_.can_expose ? "" : "the memory cannot be opened"};
  }
  [[nodiscard]] SourceAddress map(int peer, BufferId buffer, Deadline deadline) override {
    return inner_->one_sided()->map(peer, buffer, deadline);
  }
  void release() override { open_.is_mapped = false; }
  void withdraw() override {
    open_.is_published = false;
    inner_->one_sided()->withdraw();
  }

  std::vector<Token> posted;
  bool throws_at_sends = false;
  bool was_open_at_abort = false;

 private:
  std::unique_ptr<Transport> inner_;
  Open& open_;
};

/// Throws at one of its batches, counted from 0, or while it lays batches out.
class ThrowingCopier final : public WrappedCopier {
 public:
  std::vector<std::shared_ptr<PreparedBatch>> prepare(std::span<const CopyBatch* const> batches,
                                                      const AddressTable& addresses) override {
    if (throws_at_prepare) {
      throw DeviceError("no memory for the tables");
    }
    return WrappedCopier::prepare(batches, addresses);
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    if (num_submitted_++ == throws_at) {
      throw TransportError("the copier said no", -1, -1, true);
    }
    return WrappedCopier::submit(batch, addresses, after);
  }

  bool throws_at_prepare = false;
  int throws_at = -1;

 private:
  int num_submitted_ = 0;
};

/// An executor of one rank, alone or beside one that never comes.
class WhateverEnds : public ::testing::Test {
 protected:
  RunInputs inputs(bool allow_one_sided) {
    return {.plan = plan_,
            .schedule = schedule_,
            .source = map_,
            .target = map_,
            .source_memory = source_.memory(),
            .target_memory = target_.memory(),
            .allow_one_sided = allow_one_sided};
  }
  std::unique_ptr<PreparedRun> prepare(bool allow_one_sided = true) {
    return executor_.prepare(inputs(allow_one_sided), {});
  }
  [[nodiscard]] std::string map_sources() {
    return executor_.map_sources(plan_, map_, source_.memory(), {}).problem;
  }
  [[nodiscard]] bool is_open() const { return open_.is_published || open_.is_mapped; }

  Open open_;
  ShardMap map_ = model_map(Layout::parse("dp=1"));
  LoopbackWorld world_{2, {.one_sided = true}};
  WatchedTransport transport_{world_.transport(0), open_};
  ThrowingCopier copier_;
  Executor executor_{transport_, copier_, 0};
  Plan plan_ = make_plan(map_, map_, 0, {});
  Schedule schedule_ = make_schedule(plan_, map_, map_, 5, {});
  RankBuffers source_ = tagged_buffers(map_, 0);
  RankBuffers target_ = empty_buffers(map_, 0);
  RunControl control_;
};

// The peers' memory stayed mapped, and this rank's published, until another run was prepared: what
// is mapped cannot be freed by its owner.
TEST_F(WhateverEnds, RunThatIsDroppedUnrunClosesWhatItHasOpen) {
  auto prepared = prepare();
  EXPECT_TRUE(is_open());
  prepared.reset();
  EXPECT_FALSE(is_open());
}

TEST_F(WhateverEnds, RunThatEndsClosesWhatItHasOpen) {
  const auto prepared = prepare();
  executor_.run(*prepared, {}, control_);
  EXPECT_FALSE(is_open());
  EXPECT_EQ(first_wrong(map_, 0, target_), "");
}

// It let go of the peers' memory and left its own published.
TEST_F(WhateverEnds, RunOverMessagesClosesWhatWasMappedForIt) {
  EXPECT_EQ(map_sources(), "");
  const auto prepared = prepare(false);
  EXPECT_FALSE(open_.is_mapped);
  EXPECT_FALSE(open_.is_published);
}

// Its peers may still be at it, and would take an end of what it has published for its death.
TEST_F(WhateverEnds, WhatIsNotReadInPlaceStaysPublishedUntilAllHaveHeardOfIt) {
  open_.can_expose = false;
  EXPECT_NE(map_sources(), "");
  EXPECT_TRUE(open_.is_published);
  const auto prepared = prepare(false);
  EXPECT_FALSE(is_open());
}

// Where it maps by itself, its peers do so at the same time, and would wait for what it withdrew.
TEST_F(WhateverEnds, RunThatMapsAndCannotBeMadeTellsThePeersBeforeItCloses) {
  copier_.throws_at_prepare = true;
  EXPECT_THROW(prepare(), DeviceError);
  EXPECT_TRUE(transport_.was_open_at_abort);
  EXPECT_FALSE(is_open());
}

TEST_F(WhateverEnds, RunThatCannotBeMadeClosesWhatItHasOpen) {
  EXPECT_EQ(map_sources(), "");
  copier_.throws_at_prepare = true;
  EXPECT_THROW(prepare(), DeviceError);
  EXPECT_FALSE(is_open());
}

// The former is dropped when the later one stands: it must not close what that one reads.
TEST_F(WhateverEnds, FormerRunClosesNothingOfALaterOne) {
  auto former = prepare();
  const auto later = prepare();
  EXPECT_THROW(executor_.run(*former, {}, control_), InternalError);
}

TEST_F(WhateverEnds, FormerRunThatIsDroppedLeavesALaterOneWhole) {
  auto former = prepare();
  const auto later = prepare();
  former.reset();
  EXPECT_TRUE(is_open());
  executor_.run(*later, {}, control_);
  EXPECT_EQ(first_wrong(map_, 0, target_), "");
}

/// A rank that is to tell rank 1 something, and to hear of it.
Plan plan_with_rank_1() {
  Plan plan;
  plan.rank = 0;
  const PairList list{.peer = 1, .moves = {}, .size_bytes = 8, .hash = 1};
  plan.sends.push_back(list);
  plan.receives.push_back(list);
  return plan;
}

// Messages were under way into memory that the next exchange uses, and the copies that they were
// described by were freed.
TEST_F(WhateverEnds, WordsThatWereUnderWayHaveEndedWhenTheExchangeFails) {
  copier_.throws_at = 1;  // the copy of what arrives, behind the messages
  EXPECT_THROW(executor_.agree(plan_with_rank_1(), {}), TransportError);
  EXPECT_EQ(transport_.posted.size(), 2U);
  EXPECT_TRUE(std::ranges::all_of(transport_.posted, &Token::done));
}

// What is received was posted by then, and nobody could have waited for it.
TEST_F(WhateverEnds, ReceivesAreKnownWhenSendsCannotBePosted) {
  transport_.throws_at_sends = true;
  EXPECT_ANY_THROW(executor_.agree(plan_with_rank_1(), {.timeout = std::chrono::seconds(20)}));
  EXPECT_EQ(transport_.posted.size(), 1U);
  EXPECT_TRUE(transport_.posted.front().done());
}

/// The stage that an error of a run names.
int stage_of_error(Executor& executor, RunInputs inputs, RunControl& control) {
  try {
    executor.run(std::move(inputs), {}, control);
  } catch (const TransportError& error) {
    return error.stage;
  }
  return -2;
}

// The log of a failed switch is read by stage; all but the waits said that it was the first.
TEST_F(WhateverEnds, WhatFailsWhileAStageIsSubmittedNamesThatStage) {
  copier_.throws_at = 3 * 2;  // pack, local and unpack of each stage
  EXPECT_EQ(stage_of_error(executor_, inputs(false), control_), 2);
}

TEST_F(WhateverEnds, WhatFailsWhileSourcesAreReadNamesItsStage) {
  copier_.throws_at = 5 + 2 * 3;  // words, twice, and sums of what is exposed; then two of each
  EXPECT_EQ(stage_of_error(executor_, inputs(true), control_), 3);
}

TEST_F(WhateverEnds, WhatFailsBeforeTheFirstStageNamesNone) {
  copier_.throws_at = 0;
  EXPECT_EQ(stage_of_error(executor_, inputs(true), control_), -1);
}

}  // namespace
}  // namespace dynatrain
