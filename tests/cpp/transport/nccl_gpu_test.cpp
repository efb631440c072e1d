// The real NCCL on a real GPU, as far as one rank goes: messages to itself. nccl_gpu_pair_test.cpp
// has two.

#include "transport/nccl_gpu.hpp"

#include "dynatrain/kernels/cuda_copier.hpp"
#include "dynatrain/transport/nccl.hpp"

#include <gtest/gtest.h>

#include "gpu.hpp"
#include "transport/thread_store.hpp"
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace dynatrain {
namespace {

class GpuNccl : public ::testing::Test {
 protected:
  void SetUp() override {
    DYNATRAIN_NEEDS_GPU();
    const std::string problem = nccl_problem();
    if (!problem.empty()) {
      GTEST_SKIP() << "needs NCCL: " << problem;
    }
  }
  std::unique_ptr<Transport> connect(const NcclOptions& options = {}) {
    return make_nccl_transport(0, 1, options, store_, in_a_minute());
  }

  ThreadStore store_;
};

// Pieces of 1 MiB: a message of several groups, one that ends in the middle of a piece, a tiny one.
TEST_F(GpuNccl, MessagesToItselfArriveWhole) {
  NcclOptions options;
  options.piece_bytes = 1LL << 20U;
  const auto transport = connect(options);
  ASSERT_EQ(transport->message_place(), Place::kDevice);
  const std::array<std::size_t, 3> sizes{5 * (std::size_t{1} << 17U), 200'001, 1};
  std::vector<CudaMemory> sent;
  std::vector<CudaMemory> received;
  std::vector<WireMessage> sends;
  std::vector<WireMessage> receives;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    sent.push_back(on_device(numbers(sizes[i], i + 1)));
    received.push_back(on_device(std::vector<std::uint64_t>(sizes[i], 7)));
    const auto size_bytes = static_cast<std::int64_t>(sizes[i] * sizeof(std::uint64_t));
    const auto tag = static_cast<std::uint32_t>(i);
    sends.push_back({.peer = 0, .tag = tag, .data = sent[i].get(), .size_bytes = size_bytes});
    receives.push_back(
        {.peer = 0, .tag = tag, .data = received[i].get(), .size_bytes = size_bytes});
  }
  const ExchangeTokens tokens =
      transport->exchange({.sends = sends, .receives = receives}, {}, in_a_minute());
  wait_all(std::array{tokens.sent, tokens.received}, in_a_minute());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(on_host(received[i].get(), sizes[i]), numbers(sizes[i], i + 1)) << "message " << i;
  }
}

// Were the stream not ordered behind the copier's, the message would carry what was there before.
TEST_F(GpuNccl, SendsComeAfterTheCopiesTheyWaitFor) {
  const auto transport = connect();
  const auto copier = make_cuda_copier();
  constexpr std::size_t num_words = std::size_t{1} << 24U;
  constexpr std::int64_t size_bytes = num_words * sizeof(std::uint64_t);
  const CudaMemory source = on_device(numbers(num_words, 3));
  const CudaMemory slot = on_device(std::vector<std::uint64_t>(num_words, 7));
  const CudaMemory target = on_device(std::vector<std::uint64_t>(num_words, 8));
  CopyBatch batch;
  batch.copies.push_back({.src = BufferId(0),
                          .dst = BufferId(1),
                          .elem_bytes = 8,
                          .copy = {.extents = {static_cast<std::int64_t>(num_words)},
                                   .src_offset_elems = 0,
                                   .dst_offset_elems = 0,
                                   .src_strides = {1},
                                   .dst_strides = {1}}});
  AddressTable addresses;
  addresses.set(BufferId(0), source.get(), size_bytes);
  addresses.set(BufferId(1), slot.get(), size_bytes);
  const std::array sends{
      WireMessage{.peer = 0, .tag = 0, .data = slot.get(), .size_bytes = size_bytes}};
  const std::array receives{
      WireMessage{.peer = 0, .tag = 0, .data = target.get(), .size_bytes = size_bytes}};
  const std::array packed{copier->submit(batch, addresses, {})};
  const ExchangeTokens tokens =
      transport->exchange({.sends = sends, .receives = receives}, packed, in_a_minute());
  wait_all(std::array{tokens.sent, tokens.received}, in_a_minute());
  EXPECT_EQ(on_host(target.get(), num_words), numbers(num_words, 3));
}

TEST_F(GpuNccl, AbortedTransportRefusesWhatComesLater) {
  const auto transport = connect();
  transport->abort("the test says so");
  const CudaMemory memory = on_device({1});
  const std::array message{WireMessage{.peer = 0, .tag = 0, .data = memory.get(), .size_bytes = 8}};
  const Token token = transport->submit_sends(message, {}, in_a_minute());
  EXPECT_THROW(token.wait(in_a_minute()), TransportError);
}

// Memory of NCCL's own, known to the communicator: zeroed, good for messages, and to be freed after
// the transport is gone.
TEST_F(GpuNccl, RegisteredStagingCarriesAMessageAndOutlivesTheTransport) {
  const std::string problem = nccl_report().registration_problem;
  if (!problem.empty()) {
    GTEST_SKIP() << "needs ncclCommRegister: " << problem;
  }
  NcclOptions options;
  options.register_staging = true;
  auto transport = connect(options);
  constexpr std::size_t num_words = 100'000;
  constexpr std::int64_t size_bytes = num_words * sizeof(std::uint64_t);
  const auto staging = transport->allocate_messages(2 * size_bytes);
  ASSERT_NE(staging, nullptr);
  EXPECT_EQ(on_host(staging->data(), num_words), std::vector<std::uint64_t>(num_words));
  const CudaMemory words = on_device(numbers(num_words, 5));
  copy_cuda_memory(staging->data(), words.get(), size_bytes);
  const std::array sends{
      WireMessage{.peer = 0, .tag = 0, .data = staging->data(), .size_bytes = size_bytes}};
  const std::array receives{WireMessage{
      .peer = 0, .tag = 0, .data = staging->data() + size_bytes, .size_bytes = size_bytes}};
  const ExchangeTokens tokens =
      transport->exchange({.sends = sends, .receives = receives}, {}, in_a_minute());
  wait_all(std::array{tokens.sent, tokens.received}, in_a_minute());
  transport.reset();
  EXPECT_EQ(on_host(staging->data() + size_bytes, num_words), numbers(num_words, 5));
}

}  // namespace
}  // namespace dynatrain
