#pragma once

// What every Transport promises, failures included: the tests are in transport_conformance.cpp. A
// transport's own test file instantiates TransportConformance with a TransportCase.

#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/transport.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dynatrain {

/// Ranks of one transport that a test can also kill.
class TransportWorld {
 public:
  TransportWorld() = default;
  virtual ~TransportWorld() = default;
  TransportWorld(const TransportWorld&) = delete;
  TransportWorld& operator=(const TransportWorld&) = delete;
  [[nodiscard]] virtual Transport& rank(int rank) = 0;
  virtual void kill(int rank) = 0;
  /// Memory of `rank` that its one-sided part can expose and the host can write; lives as long as
  /// the world.
  [[nodiscard]] virtual std::byte* memory(int /*rank*/, std::int64_t size_bytes) {
    memory_.emplace_back(static_cast<std::size_t>(size_bytes));
    return memory_.back().data();
  }

 private:
  std::deque<std::vector<std::byte>> memory_;
};

struct TransportCase {
  std::string name;
  std::function<std::unique_ptr<TransportWorld>(int num_ranks)> make;
  /// False for a transport that trusts both ends to have agreed on every size before.
  bool compares_sizes = true;
};

class TransportConformance : public ::testing::TestWithParam<TransportCase> {
 protected:
  using Bytes = std::vector<std::byte>;

  static Bytes pattern(std::int64_t size_bytes, int seed) {
    Bytes bytes(static_cast<std::size_t>(size_bytes));
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>((i * 131 + static_cast<std::size_t>(seed) * 17) % 251);
    }
    return bytes;
  }
  static WireMessage message(int peer, std::uint32_t tag, Bytes& bytes) {
    return {.peer = peer,
            .tag = tag,
            .data = bytes.data(),
            .size_bytes = static_cast<std::int64_t>(bytes.size())};
  }
  static Deadline soon() { return deadline_in(std::chrono::milliseconds(20)); }
  static Deadline late() { return deadline_in(std::chrono::seconds(30)); }
  static Token send(Transport& transport, WireMessage what, Deadline deadline = late()) {
    return transport.submit_sends(std::array{what}, {}, deadline);
  }
  static Token receive(Transport& transport, WireMessage what, Deadline deadline = late()) {
    return transport.submit_receives(std::array{what}, {}, deadline);
  }
  /// The peer of the TransportError that `token` ends with; -2 when it ends well.
  static int failed_peer(const Token& token) {
    try {
      token.wait(late());
    } catch (const TransportError& error) {
      EXPECT_GT(std::string(error.what()).size(), 20U);
      return error.peer;
    }
    return -2;
  }

  void start(int num_ranks) { world_ = GetParam().make(num_ranks); }
  Transport& rank(int index) { return world_->rank(index); }

  std::unique_ptr<TransportWorld> world_;
};

}  // namespace dynatrain
