// The real NCCL between two ranks, which are threads of this process and share its GPU: NCCL takes
// that from 2.30 on, when NCCL_MULTI_RANK_GPU_ENABLE is set before it first looks.

#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/nccl.hpp"

#include <gtest/gtest.h>

#include "gpu.hpp"
#include "transport/nccl_gpu.hpp"
#include "transport/thread_store.hpp"
#include <array>
#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

// NCCL keeps the first value that it reads, so this comes before any test of this program.
[[maybe_unused]] const int is_shared = setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);

constexpr std::size_t kNumWords = 100'000;
constexpr std::int64_t kSizeBytes = kNumWords * sizeof(std::uint64_t);

using Pair = std::array<std::unique_ptr<Transport>, 2>;

WireMessage message(int peer, std::uint32_t tag, const CudaMemory& memory) {
  return {.peer = peer, .tag = tag, .data = memory.get(), .size_bytes = kSizeBytes};
}

class GpuNcclPair : public ::testing::Test {
 protected:
  void SetUp() override {
    DYNATRAIN_NEEDS_GPU();
    const std::string problem = nccl_problem();
    if (!problem.empty()) {
      GTEST_SKIP() << "needs NCCL: " << problem;
    }
    const std::string version = nccl_version();
    const std::size_t dot = version.find('.');
    if (std::stoi(version) == 2 && std::stoi(version.substr(dot + 1)) < 30) {
      GTEST_SKIP() << "needs two ranks on one GPU: NCCL " << version << " refuses, 2.30 does not";
    }
  }

  /// Both ranks of a communicator of its own; empty where NCCL refuses, which `refusal_` tells.
  Pair connect(const NcclOptions& options = {}) {
    stores_.push_back(std::make_unique<ThreadStore>());
    Pair pair;
    std::array<std::string, 2> errors;
    std::vector<std::thread> threads;
    for (const int rank : {0, 1}) {
      threads.emplace_back([&, rank] {
        const auto index = static_cast<std::size_t>(rank);
        try {
          pair[index] = make_nccl_transport(rank, 2, options, *stores_.back(), in_a_minute());
        } catch (const Error& error) {
          errors[index] = error.what();
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    refusal_ = errors[0].empty() ? errors[1] : errors[0];
    return refusal_.empty() ? std::move(pair) : Pair();
  }

  /// True where NCCL does not take two ranks on one GPU after all; anything else is a failure.
  [[nodiscard]] bool is_refused() const {
    const bool is_usage = refusal_.find("invalid usage") != std::string::npos ||
                          refusal_.find("Duplicate GPU") != std::string::npos;
    EXPECT_TRUE(refusal_.empty() || is_usage) << refusal_;
    return !refusal_.empty();
  }

  /// Each rank sends its words to the other, from a thread of its own: the first time, posting
  /// waits for the peer. No memory is taken or freed meanwhile: that waits for kernels of the
  /// device, and the kernel of one rank waits for that of the other.
  static void expect_exchange(const Pair& pair, std::uint32_t tag) {
    const std::array sent{on_device(numbers(kNumWords, 1)), on_device(numbers(kNumWords, 2))};
    const std::array received{on_device(std::vector<std::uint64_t>(kNumWords, 7)),
                              on_device(std::vector<std::uint64_t>(kNumWords, 7))};
    std::array<std::future<void>, 2> exchanges;
    for (const int rank : {0, 1}) {
      const auto index = static_cast<std::size_t>(rank);
      exchanges[index] = std::async(std::launch::async, [&, rank, index] {
        const std::array sends{message(1 - rank, tag, sent[index])};
        const std::array receives{message(1 - rank, tag, received[index])};
        const ExchangeTokens tokens =
            pair[index]->exchange({.sends = sends, .receives = receives}, {}, in_a_minute());
        wait_all(std::array{tokens.sent, tokens.received}, in_a_minute());
      });
    }
    for (std::future<void>& exchange : exchanges) {
      EXPECT_NO_THROW(exchange.get());
    }
    EXPECT_EQ(on_host(received[0].get(), kNumWords), numbers(kNumWords, 2));
    EXPECT_EQ(on_host(received[1].get(), kNumWords), numbers(kNumWords, 1));
  }

  /// Rank 0 waits for a message that rank 1 never posts, until its deadline.
  static void expect_deadline(Transport& rank, std::uint32_t tag) {
    const CudaMemory received = on_device(std::vector<std::uint64_t>(kNumWords, 7));
    const std::array receives{message(1, tag, received)};
    const auto begin = std::chrono::steady_clock::now();
    const Token token = rank.submit_receives(receives, {}, deadline_in(std::chrono::seconds(2)));
    try {
      token.wait(in_a_minute());
      FAIL() << "it ended well";
    } catch (const TransportError& error) {
      EXPECT_EQ(error.peer, 1) << error.what();
      EXPECT_TRUE(error.retryable);
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
    // Nothing of it is on the device any more: the memory is free, and a copy behind it ends.
    EXPECT_TRUE(token.done());
    EXPECT_EQ(on_host(received.get(), 1), std::vector<std::uint64_t>{7});
  }

  /// Both ranks have given up on a communicator; a second one works.
  void expect_second_communicator(Pair first) {
    first[1]->abort("the peer gave up");
    first = Pair();
    Pair second = connect();
    ASSERT_EQ(refusal_, "");
    expect_exchange(second, 0);
    end(std::move(second));
  }

  /// Closes both side by side: NCCL's finalize holds a barrier of the ranks of a host.
  static void end(Pair pair) {
    const auto begin = std::chrono::steady_clock::now();
    std::thread other([&] { pair[1].reset(); });
    pair[0].reset();
    other.join();
    // Later, it was aborted instead.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  }

  std::vector<std::unique_ptr<ThreadStore>> stores_;
  std::string refusal_;
};

TEST_F(GpuNcclPair, MessagesArriveBothWays) {
  Pair pair = connect();
  if (is_refused()) {
    GTEST_SKIP() << refusal_;
  }
  expect_exchange(pair, 0);
  expect_exchange(pair, 1);
  end(std::move(pair));
}

// The kernel of the receive is on the device and spins: only the abort ends it.
TEST_F(GpuNcclPair, SilentPeerEndsAtTheDeadlineAndASecondCommunicatorWorks) {
  Pair pair = connect();
  if (is_refused()) {
    GTEST_SKIP() << refusal_;
  }
  expect_exchange(pair, 0);
  expect_deadline(*pair[0], 1);
  expect_second_communicator(std::move(pair));
}

// The two have never talked: NCCL waits for the peer on the host, and no kernel is there yet.
TEST_F(GpuNcclPair, PeerThatNeverTalkedEndsAtTheDeadlineAndASecondCommunicatorWorks) {
  Pair pair = connect();
  if (is_refused()) {
    GTEST_SKIP() << refusal_;
  }
  expect_deadline(*pair[0], 0);
  expect_second_communicator(std::move(pair));
}

// Staging that is registered when the communicator is aborted: the handle dies, the memory is
// freed.
TEST_F(GpuNcclPair, RegisteredStagingSurvivesAnAbort) {
  const std::string problem = nccl_report().registration_problem;
  if (!problem.empty()) {
    GTEST_SKIP() << "needs ncclCommRegister: " << problem;
  }
  NcclOptions options;
  options.register_staging = true;
  Pair pair = connect(options);
  if (is_refused()) {
    GTEST_SKIP() << refusal_;
  }
  auto staging = pair[0]->allocate_messages(kSizeBytes);
  ASSERT_NE(staging, nullptr);
  expect_exchange(pair, 0);
  expect_deadline(*pair[0], 1);
  EXPECT_EQ(on_host(staging->data(), 1), std::vector<std::uint64_t>{0});
  staging.reset();
  expect_second_communicator(std::move(pair));
}

}  // namespace
}  // namespace dynatrain
