// One bit that flips on its way, in whichever message, is found and the tensor named; or it was one
// of no tensor.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "execution/tampering_transport.hpp"
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// One message of a run, as its sender numbers it.
struct Sent {
  int sender;
  int batch;
  std::size_t index;
  int receiver;
  std::int64_t size_bytes;

  friend bool operator==(const Sent&, const Sent&) = default;
};

struct Case {
  const char* source;
  const char* target;
  std::int64_t direct_threshold_bytes;

  friend void PrintTo(const Case& what, std::ostream* out) {
    *out << what.source << " to " << what.target << ", direct from " << what.direct_threshold_bytes;
  }
};

class FlippedBits : public ::testing::TestWithParam<Case> {
 protected:
  FlippedBits() {
    what_.schedule.staging_budget_bytes = 32 << 10U;
    what_.schedule.direct_threshold_bytes = GetParam().direct_threshold_bytes;
    what_.schedule.min_message_bytes = 1;
    what_.schedule.num_stages_to_overlap = 3;
  }

  /// Runs the switch; `before_send` sees every batch of every rank that carries bytes of a stage.
  void run(const std::function<void(int, int, std::vector<WireMessage>&)>& before_send) {
    what_.wrap = [&](std::unique_ptr<Transport> inner, LoopbackWorld&) {
      const int rank = inner->rank();
      return std::make_unique<TamperingTransport>(
          std::move(inner), [&, rank](int batch, std::vector<WireMessage>& messages) {
            const std::lock_guard lock(mutex_);
            if (batch > 0) {
              before_send(rank, batch, messages);
            }
          });
    };
    outcome_ = switch_over_loopback(source_, target_, what_);
  }

  /// All messages of an undisturbed run.
  std::vector<Sent> messages_of_a_run() {
    std::vector<Sent> all;
    run([&all](int rank, int batch, const std::vector<WireMessage>& messages) {
      for (std::size_t i = 0; i < messages.size(); ++i) {
        all.push_back({rank, batch, i, messages[i].peer, messages[i].size_bytes});
      }
    });
    expect_identity(source_, target_, outcome_);
    return all;
  }

  /// Runs once more, with one bit of one message changed on its way.
  void flip(const Sent& which, std::int64_t bit) {
    std::vector<std::byte> damaged;
    run([&](int rank, int batch, std::vector<WireMessage>& messages) {
      if (rank != which.sender || batch != which.batch) {
        return;
      }
      WireMessage& message = messages.at(which.index);
      damaged.assign(message.data, message.data + message.size_bytes);
      damaged[static_cast<std::size_t>(bit / 8)] ^= std::byte{1} << (bit % 8);
      message.data = damaged.data();
    });
    ASSERT_FALSE(damaged.empty()) << "the message was not sent";
  }

  [[nodiscard]] bool is_found(const Sent& which) const {
    return outcome_.errors[static_cast<std::size_t>(which.receiver)] != nullptr;
  }

  /// Between two parts of a message lie bytes of no tensor, which nobody reads.
  void expect_nothing_changed() const { expect_identity(source_, target_, outcome_); }

  void expect_named(const Sent& which) {
    try {
      std::rethrow_exception(outcome_.errors[static_cast<std::size_t>(which.receiver)]);
    } catch (const TransportError& error) {
      EXPECT_EQ(error.peer, which.sender);
      const std::string text = error.what();
      const std::size_t end = text.find("' arrived damaged");
      ASSERT_NE(end, std::string::npos) << text;
      const std::size_t begin = text.find('\'') + 1;
      EXPECT_GE(source_.find(text.substr(begin, end - begin)).value, 0) << text;
    }
    for (std::size_t i = 0; i < outcome_.source.size(); ++i) {
      EXPECT_TRUE(outcome_.source[i] == tagged_buffers(source_, static_cast<int>(i)))
          << "source of rank " << i;
    }
  }

  ShardMap source_ = model_map(Layout::parse(GetParam().source));
  ShardMap target_ = model_map(Layout::parse(GetParam().target));

 private:
  SwitchCase what_;
  SwitchOutcome outcome_;
  std::mutex mutex_;
};

// Damage in a message that no test thought of would reach training silently.
TEST_P(FlippedBits, OneBitOfAnyMessageIsFoundUnlessItIsOfNoTensor) {
  const std::vector<Sent> all = messages_of_a_run();
  ASSERT_GE(all.size(), 8U);
  std::mt19937_64 random(20261130);
  std::size_t num_found = 0;
  for (const Sent& which : all) {
    const std::int64_t bit =
        static_cast<std::int64_t>(random() % (8 * static_cast<std::uint64_t>(which.size_bytes)));
    SCOPED_TRACE("bit " + std::to_string(bit) + " of message " + std::to_string(which.index) +
                 " of batch " + std::to_string(which.batch) + ", rank " +
                 std::to_string(which.sender) + " to " + std::to_string(which.receiver));
    flip(which, bit);
    if (is_found(which)) {
      ++num_found;
      expect_named(which);
    } else {
      expect_nothing_changed();
    }
  }
  EXPECT_GE(2 * num_found, all.size()) << "most bits are of tensors, or of their sums";
}

INSTANTIATE_TEST_SUITE_P(Layouts,
                         FlippedBits,
                         ::testing::Values(Case{"dp=4", "dp=2,tp=2", 1LL << 20U},
                                           Case{"dp=4", "dp=2,tp=2", 64},
                                           Case{"pp=4", "dp_replicate=4", 64},
                                           Case{"tp=4", "dp_replicate=2,pp=2", 1024}));

}  // namespace
}  // namespace dynatrain
