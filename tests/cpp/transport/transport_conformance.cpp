// What every Transport promises, failures included.

#include "transport/transport_conformance.hpp"

namespace dynatrain {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportConformance);

// The one thing a transport is for; empty, odd and large sizes take different paths in many.
TEST_P(TransportConformance, MessagesArriveBitForBit) {
  start(2);
  std::uint32_t tag = 0;
  for (const std::int64_t size : {0LL, 1LL, 7LL, 4096LL, (1LL << 20U) + 3}) {
    Bytes sent = pattern(size, 3);
    Bytes received(sent.size());
    const Token arrival = receive(rank(1), message(0, tag, received));
    const Token departure = send(rank(0), message(1, tag, sent));
    arrival.wait(late());
    departure.wait(late());
    EXPECT_EQ(sent, received) << size << " bytes";
    ++tag;
  }
}

// Ranks post a stage in orders of their own; what belongs together is said by peer and tag alone.
TEST_P(TransportConformance, TagsDecideWhichMessagesMeet) {
  start(2);
  constexpr int kNumMessages = 16;
  std::vector<Bytes> sent;
  std::vector<Bytes> received;
  for (int i = 0; i < kNumMessages; ++i) {
    sent.push_back(pattern(100 + i, i));
    received.emplace_back(sent.back().size());
  }
  std::vector<WireMessage> receives;
  std::vector<WireMessage> sends;
  for (int i = 0; i < kNumMessages; ++i) {
    const auto index = static_cast<std::size_t>(i);
    sends.push_back(message(1, static_cast<std::uint32_t>(i), sent[index]));
    const std::size_t back = kNumMessages - 1 - index;
    receives.push_back(message(0, static_cast<std::uint32_t>(back), received[back]));
  }
  const Token departure = rank(0).submit_sends(sends, {}, late());
  const Token arrival = rank(1).submit_receives(receives, {}, late());
  arrival.wait(late());
  departure.wait(late());
  EXPECT_EQ(sent, received);
}

// A stage posts everything before it waits for anything; a transport that made one message wait for
// another one's peer would deadlock right here.
TEST_P(TransportConformance, AllPairsMeetInOneExchange) {
  constexpr int kNumRanks = 5;
  start(kNumRanks);
  std::vector<std::thread> threads;
  std::array<int, kNumRanks> num_wrong{};
  for (int me = 0; me < kNumRanks; ++me) {
    threads.emplace_back([&, me] {
      std::vector<Bytes> out(kNumRanks);
      std::vector<Bytes> in(kNumRanks);
      std::vector<WireMessage> sends;
      std::vector<WireMessage> receives;
      for (int peer = 0; peer < kNumRanks; ++peer) {
        const auto index = static_cast<std::size_t>(peer);
        if (peer != me) {
          out[index] = pattern(3000, me * kNumRanks + peer);
          in[index] = Bytes(3000);
          sends.push_back(message(peer, 7, out[index]));
          receives.push_back(message(peer, 7, in[index]));
        }
      }
      const ExchangeTokens tokens =
          rank(me).exchange({.sends = sends, .receives = receives}, {}, late());
      tokens.received.wait(late());
      tokens.sent.wait(late());
      for (int peer = 0; peer < kNumRanks; ++peer) {
        const bool is_right = peer == me || in[static_cast<std::size_t>(peer)] ==
                                                pattern(3000, peer * kNumRanks + me);
        num_wrong[static_cast<std::size_t>(me)] += is_right ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(num_wrong, (std::array<int, kNumRanks>{}));
}

// A packed message must not leave before it has been packed.
TEST_P(TransportConformance, SendReadsItsBytesOnlyAfterItsTokens) {
  start(2);
  Bytes sent(64);
  Bytes received(64);
  const Bytes packed = pattern(64, 5);
  auto packing = std::make_shared<HostCompletion>();
  const Token arrival = receive(rank(1), message(0, 1, received));
  const std::array sends{message(1, 1, sent)};
  std::thread sender([&] {  // a host transport may block in submit
    const std::array after{Token(packing)};
    rank(0).submit_sends(sends, after, late()).wait(late());
  });
  std::copy(packed.begin(), packed.end(), sent.begin());
  packing->set();
  arrival.wait(late());
  sender.join();
  EXPECT_EQ(received, packed);
}

// If packing failed, sending what lies in the buffer would spread garbage.
TEST_P(TransportConformance, FailedTokenBeforeASendIsItsFailure) {
  start(2);
  Bytes sent(8);
  auto packing = std::make_shared<HostCompletion>();
  packing->fail(std::make_exception_ptr(InternalError("packing failed")));
  const std::array after{Token(packing)};
  const Token departure = rank(0).submit_sends(std::array{message(1, 1, sent)}, after, late());
  EXPECT_THROW(departure.wait(late()), InternalError);
}

// An empty stage is normal: a rank may have nothing to send.
TEST_P(TransportConformance, EmptyBatchEndsAtOnce) {
  start(2);
  rank(0).submit_sends({}, {}, late()).wait(late());
  rank(0).submit_receives({}, {}, late()).wait(late());
}

// Two ranks with different plans must not write past a buffer or leave half of it unwritten.
TEST_P(TransportConformance, WrongSizeFailsAndNamesThePeer) {
  if (!GetParam().compares_sizes) {
    GTEST_SKIP() << "this transport puts no size on the wire; the plan's hash is compared instead";
  }
  start(2);
  Bytes sent = pattern(16, 1);
  Bytes received(15);
  const Token arrival = receive(rank(1), message(0, 1, received));
  const Token departure = send(rank(0), message(1, 1, sent));
  EXPECT_EQ(failed_peer(arrival), 0);
  EXPECT_EQ(failed_peer(departure), 1);
  EXPECT_EQ(received, Bytes(15));
}

// A rank that never comes must not hold the others for ever, and the error must say who it is.
TEST_P(TransportConformance, SilentPeerEndsAtTheDeadlineAndIsNamed) {
  start(3);
  Bytes received(8);
  EXPECT_EQ(failed_peer(receive(rank(1), message(2, 1, received), soon())), 2);
}

// A dead peer is noticed long before the deadline.
TEST_P(TransportConformance, KilledPeerFailsWhatWaitsForIt) {
  start(3);
  Bytes sent(8);
  Bytes received(8);
  const Token arrival = receive(rank(0), message(2, 1, received));
  const Token departure = send(rank(1), message(2, 1, sent));
  world_->kill(2);
  EXPECT_EQ(failed_peer(arrival), 2);
  EXPECT_EQ(failed_peer(departure), 2);
  EXPECT_EQ(failed_peer(receive(rank(0), message(2, 2, received))), 2);
}

// One dead rank must not cut the others off from each other: they have to agree on what to do.
TEST_P(TransportConformance, RanksOtherThanTheKilledOneStillTalk) {
  start(3);
  world_->kill(2);
  Bytes sent = pattern(8, 1);
  Bytes received(8);
  const Token arrival = receive(rank(1), message(0, 1, received));
  send(rank(0), message(1, 1, sent)).wait(late());
  arrival.wait(late());
  EXPECT_EQ(sent, received);
}

// Abort is how every blocked thread of a rank is freed; it says why, also to later callers.
TEST_P(TransportConformance, AbortEndsPendingAndLaterOperationsWithItsReason) {
  start(2);
  Bytes received(8);
  const Token pending = receive(rank(1), message(0, 1, received));
  std::thread other_thread([&] { rank(1).abort("the user changed their mind"); });
  try {
    pending.wait(late());
    FAIL() << "the receive ended well";
  } catch (const TransportError& error) {
    EXPECT_NE(std::string(error.what()).find("the user changed their mind"), std::string::npos);
  }
  other_thread.join();
  rank(1).abort("a second abort changes nothing");
  EXPECT_THROW(receive(rank(1), message(0, 2, received)).wait(late()), TransportError);
}

// A failed group must not go on writing into memory that its owner believes to be free again.
TEST_P(TransportConformance, FailedBatchHasLetGoOfAllItsMemory) {
  start(3);
  Bytes from_dead(8);
  Bytes from_slow(8);
  const std::array receives{message(2, 1, from_dead), message(1, 1, from_slow)};
  const Token arrival = rank(0).submit_receives(receives, {}, late());
  world_->kill(2);
  rank(0).abort("a peer died");
  EXPECT_THROW(arrival.wait(late()), TransportError);
  Bytes sent = pattern(8, 1);
  EXPECT_THROW(send(rank(1), message(0, 1, sent), soon()).wait(late()), TransportError);
  EXPECT_EQ(from_slow, Bytes(8));
}

// The fused path reads what the peer published, where it lies.
TEST_P(TransportConformance, OneSidedReadsWhatThePeerPublishes) {
  start(2);
  OneSided* const reader = rank(0).one_sided();
  if (reader == nullptr) {
    GTEST_SKIP() << "this transport has no one-sided part";
  }
  std::byte* const exposed = world_->memory(1, 32);
  std::thread owner([&] {
    const std::array buffers{ExposedBuffer{BufferId(4), exposed, 24},
                             ExposedBuffer{BufferId(2), exposed + 24, 8}};
    rank(1).one_sided()->publish(buffers);
  });
  reader->publish({});
  const std::byte* const first = reader->map(1, BufferId(4), late()).base;
  const std::byte* const second = reader->map(1, BufferId(2), late()).base;
  owner.join();
  const Bytes written = pattern(32, 9);  // training goes on between publishing and reading
  std::copy(written.begin(), written.end(), exposed);
  EXPECT_EQ(Bytes(first, first + 24), Bytes(written.begin(), written.begin() + 24));
  EXPECT_EQ(Bytes(second, second + 8), Bytes(written.begin() + 24, written.end()));
  reader->release();
  rank(1).one_sided()->withdraw();
}

// A reader that met an older publication would read memory that its owner has freed since.
TEST_P(TransportConformance, OneSidedMapMeetsThePublicationOfTheSameNumber) {
  start(2);
  OneSided* const reader = rank(0).one_sided();
  OneSided* const owner = rank(1).one_sided();
  if (reader == nullptr) {
    GTEST_SKIP() << "this transport has no one-sided part";
  }
  std::byte* const former = world_->memory(1, 8);
  std::byte* const latter = world_->memory(1, 8);
  std::fill(former, former + 8, std::byte{1});
  std::fill(latter, latter + 8, std::byte{2});
  owner->publish(std::array{ExposedBuffer{BufferId(0), former, 8}});
  reader->publish({});
  EXPECT_EQ(*reader->map(1, BufferId(0), late()).base, std::byte{1});
  reader->publish({});
  EXPECT_THROW((void)reader->map(1, BufferId(0), soon()), TransportError);
  owner->withdraw();
  owner->publish(std::array{ExposedBuffer{BufferId(0), latter, 8}});
  EXPECT_EQ(*reader->map(1, BufferId(0), late()).base, std::byte{2});
  EXPECT_THROW((void)reader->map(1, BufferId(1), late()).base, TransportError);
}

// A reader that waits for a dead owner is told so, and by whom it was left.
TEST_P(TransportConformance, OneSidedMapFailsWhenThePeerDies) {
  start(2);
  OneSided* const reader = rank(0).one_sided();
  if (reader == nullptr) {
    GTEST_SKIP() << "this transport has no one-sided part";
  }
  reader->publish({});
  std::thread killer([&] { world_->kill(1); });
  const Deadline deadline = late();
  try {
    (void)reader->map(1, BufferId(0), deadline);
    ADD_FAILURE() << "the map ended well";
  } catch (const TransportError& error) {
    EXPECT_EQ(error.peer, 1);
  }
  EXPECT_LT(std::chrono::steady_clock::now(), deadline) << "only the deadline ended it";
  killer.join();
}

// Cancel must free a rank that waits for a publication, too.
TEST_P(TransportConformance, OneSidedMapEndsWithTheReasonOfAnAbort) {
  start(2);
  OneSided* const reader = rank(0).one_sided();
  if (reader == nullptr) {
    GTEST_SKIP() << "this transport has no one-sided part";
  }
  reader->publish({});
  std::thread aborter([&] { rank(0).abort("the user changed their mind"); });
  try {
    (void)reader->map(1, BufferId(0), late()).base;
    ADD_FAILURE() << "the map ended well";
  } catch (const TransportError& error) {
    EXPECT_NE(std::string(error.what()).find("changed their mind"), std::string::npos)
        << error.what();
  }
  aborter.join();
}

}  // namespace dynatrain
