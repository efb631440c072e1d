#include "dynatrain/transport/loopback.hpp"

#include "transport/transport_conformance.hpp"
#include <memory>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

class LoopbackTestWorld final : public TransportWorld {
 public:
  LoopbackTestWorld(int num_ranks, LoopbackOptions options) : world_(num_ranks, options) {
    for (int i = 0; i < num_ranks; ++i) {
      transports_.push_back(world_.transport(i));
    }
  }
  [[nodiscard]] Transport& rank(int rank) override {
    return *transports_[static_cast<std::size_t>(rank)];
  }
  void kill(int rank) override { world_.kill(rank); }

 private:
  LoopbackWorld world_;
  std::vector<std::unique_ptr<Transport>> transports_;
};

TransportCase loopback_case(const std::string& name, LoopbackOptions options) {
  return {.name = name,
          .make =
              [options](int num_ranks) {
                return std::make_unique<LoopbackTestWorld>(num_ranks, options);
              },
          .compares_sizes = true};
}

INSTANTIATE_TEST_SUITE_P(
    Loopback,
    TransportConformance,
    ::testing::Values(
        loopback_case("rendezvous", {.rendezvous = true, .adversary_seed = 0, .one_sided = true}),
        loopback_case("adversary", {.rendezvous = true, .adversary_seed = 11, .one_sided = true})),
    [](const auto& test) { return test.param.name; });

// A zero-buffer transport is the hardest one to make progress on, which is why law 6 is tested over
// it: a send that ended before its receive was posted would hide deadlocks.
TEST(LoopbackRendezvous, SendDoesNotEndBeforeItsReceiveIsPosted) {
  LoopbackTestWorld world(2, {.rendezvous = true, .adversary_seed = 0, .one_sided = false});
  std::vector<std::byte> bytes(4);
  const std::vector<WireMessage> messages{
      {.peer = 1, .tag = 0, .data = bytes.data(), .size_bytes = 4}};
  const Token departure =
      world.rank(0).submit_sends(messages, {}, deadline_in(std::chrono::milliseconds(30)));
  EXPECT_THROW(departure.wait(deadline_in(std::chrono::seconds(10))), TransportError);
}

// The mailbox mode is what eager transports do: the sender's memory is free at once.
TEST(LoopbackMailbox, SendEndsAtOnceAndItsBytesArriveLater) {
  LoopbackTestWorld world(2, {.rendezvous = false, .adversary_seed = 0, .one_sided = false});
  std::vector<std::byte> sent(4, std::byte{7});
  std::vector<std::byte> received(4);
  const Deadline deadline = deadline_in(std::chrono::seconds(10));
  const std::vector<WireMessage> sends{{.peer = 1, .tag = 0, .data = sent.data(), .size_bytes = 4}};
  const std::vector<WireMessage> receives{
      {.peer = 0, .tag = 0, .data = received.data(), .size_bytes = 4}};
  const Token departure = world.rank(0).submit_sends(sends, {}, deadline);
  EXPECT_TRUE(departure.done());
  sent.assign(4, std::byte{0});
  world.kill(0);  // what was sent before a death still arrives
  world.rank(1).submit_receives(receives, {}, deadline).wait(deadline);
  EXPECT_EQ(received, std::vector<std::byte>(4, std::byte{7}));
}

// Tags pair messages up; a tag that two waiting messages share would pair them by chance.
TEST(LoopbackTags, TagThatStillWaitsIsRefused) {
  LoopbackTestWorld world(2, {.rendezvous = true, .adversary_seed = 0, .one_sided = false});
  std::vector<std::byte> bytes(4);
  const std::vector<WireMessage> twice(
      2, {.peer = 1, .tag = 0, .data = bytes.data(), .size_bytes = 4});
  const Deadline deadline = deadline_in(std::chrono::seconds(10));
  EXPECT_THROW(world.rank(0).submit_sends(twice, {}, deadline).wait(deadline), InternalError);
}

}  // namespace
}  // namespace dynatrain
