// Ranks that end while others wait for their word.

#include "transport/peer_memory/lifelines.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "transport/open_files.hpp"
#include "transport/owner_process.hpp"
#include "transport/peer_memory/local_socket.hpp"
#include "transport/peer_memory/peer_wait.hpp"
#include "transport/thread_store.hpp"
#include <chrono>
#include <string>

namespace dynatrain {
namespace {

int live(const ChildProcess::Line& parent) {
  const Lifelines own;
  parent.say(own.name());
  static_cast<void>(parent.hear());
  return 0;
}

/// What the wait for the word of rank 1 ends with.
std::string end_of_wait(Store& store, const Lifelines& lifelines, Deadline deadline) {
  const AbortFlag not_aborted;
  try {
    return wait_for_word(
        store, "word", 1, {.deadline = deadline, .aborted = not_aborted, .lifelines = &lifelines});
  } catch (const TransportError& error) {
    return error.peer == 1 ? error.what() : "it names another peer";
  }
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Otherwise all ranks of the host wait for the deadline, which is minutes, with training at a stop.
TEST(Lifelines, RankThatIsKilledBeforeItsWordIsNamedBeforeTheDeadline) {
  ChildProcess peer(live);
  ThreadStore store;
  Lifelines own;
  own.hold(1, peer.line.hear());
  EXPECT_FALSE(own.has_ended(1));
  peer.kill();
  const std::string end = end_of_wait(store, own, Deadline::max());
  EXPECT_TRUE(holds(end, "rank 1 has ended before it said")) << end;
}

// A rank that has said all it had to say may leave.
TEST(Lifelines, WordOfARankThatHasEndedIsHeard) {
  ChildProcess peer(live);
  ThreadStore store;
  Lifelines own;
  own.hold(1, peer.line.hear());
  store.set("word", "its last");
  peer.kill();
  EXPECT_EQ(end_of_wait(store, own, Deadline::max()), "its last");
}

// An aborted rank answers nobody, though its process lives on.
TEST(Lifelines, RankThatLetsGoHasEndedForItsPeers) {
  const int num_open = count_open_files();
  {
    Lifelines peer;
    Lifelines own;
    own.hold(1, peer.name());
    own.hold(2, peer.name());
    EXPECT_FALSE(own.has_ended(1));
    peer.let_go();
    EXPECT_TRUE(own.has_ended(1));
    EXPECT_TRUE(own.has_ended(2));
  }
  EXPECT_EQ(count_open_files(), num_open);
}

// Ranks of another machine cannot be watched; they must not be taken for dead.
TEST(Lifelines, RankThatCannotBeWatchedIsNotTakenForDead) {
  ThreadStore store;
  Lifelines own;
  own.hold(1, make_socket_name());
  own.hold(2, "");
  EXPECT_FALSE(own.has_ended(1));
  EXPECT_FALSE(own.has_ended(2));
  EXPECT_FALSE(own.has_ended(3));
  const std::string end = end_of_wait(store, own, deadline_in(std::chrono::milliseconds(5)));
  EXPECT_TRUE(holds(end, "before the deadline")) << end;
}

}  // namespace
}  // namespace dynatrain
