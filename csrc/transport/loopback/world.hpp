#pragma once

#include "dynatrain/execution/transport.hpp"
#include "dynatrain/transport/loopback.hpp"

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dynatrain {

/// The messages of one submit call, which share a token. Guarded by the state's mutex.
struct LoopbackGroup {
  std::shared_ptr<HostCompletion> completion = std::make_shared<HostCompletion>();
  std::size_t num_open = 0;
  std::exception_ptr error;
};

/// One end of a message.
struct LoopbackEnd {
  int rank = 0;
  bool is_send = false;
  WireMessage message;
  Deadline deadline;
  std::shared_ptr<LoopbackGroup> group;  ///< null for a mailbox send, which has ended already
  std::vector<std::byte> mailbox;        ///< a mailbox send's own copy
};

/// Who reads which publication of whom.
struct LoopbackReading {
  int rank = 0;
  int peer = 0;
  std::int64_t publication = 0;
};

/// What the ranks of a loopback world share: messages that look for their other end, and one
/// courier thread that copies matched messages, one at a time, in an order that the adversary
/// picks. Threads  all members; tokens end on the courier or on the thread that aborts.
class LoopbackState {
 public:
  LoopbackState(int num_ranks, LoopbackOptions loopback_options);
  ~LoopbackState();
  LoopbackState(const LoopbackState&) = delete;
  LoopbackState& operator=(const LoopbackState&) = delete;
  LoopbackState(LoopbackState&&) = delete;
  LoopbackState& operator=(LoopbackState&&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(gone_.size()); }
  [[nodiscard]] const LoopbackOptions& options() const { return options_; }

  /// Posts messages of `rank`; the token ends when all have, and fails with the first that does. A
  /// failure withdraws what has not met its other end yet.
  Token post(int rank, bool is_send, std::span<const WireMessage> messages, Deadline deadline);
  /// Ends everything that involves `rank`, now and from now on.
  void remove(int rank, const std::string& reason);

  void publish(int rank, std::int64_t number, std::span<const ExposedBuffer> buffers);
  const std::byte* map(const LoopbackReading& reading, BufferId buffer, Deadline deadline);
  void withdraw(int rank);

 private:
  using Key = std::array<std::int64_t, 3>;  ///< source rank, destination rank, tag
  using Waiting = std::map<Key, LoopbackEnd>;
  /// Two ends that have met; after the copy, an end whose completion the adversary holds back.
  struct Task {
    LoopbackEnd send;
    LoopbackEnd receive;
    bool is_copied = false;
  };

  static Key key_of(const LoopbackEnd& end);
  void post_end(LoopbackEnd end);
  void wait_for_other(LoopbackEnd end);
  void finish(const LoopbackEnd& end, const std::exception_ptr& error);
  void withdraw_group(const std::shared_ptr<LoopbackGroup>& group, const std::exception_ptr& error);
  void fail_ends_of(int rank);
  void expire(Deadline now);
  [[nodiscard]] std::exception_ptr error_if_gone(const LoopbackEnd& end) const;

  void deliver();
  Task pick_task();
  void copy(Task task, std::unique_lock<std::mutex>& lock);
  [[nodiscard]] bool has_adversary() const { return options_.adversary_seed != 0; }

  LoopbackOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable published_changed_;
  Waiting sends_;
  Waiting receives_;
  std::deque<Task> tasks_;
  std::vector<std::string> gone_;  ///< why a rank is gone; empty while it is there
  using Exposed = std::map<BufferId, const std::byte*>;
  std::map<std::pair<int, std::int64_t>, Exposed> published_;  ///< by rank and number
  Deadline next_expiry_ = Deadline::max();
  std::mt19937_64 random_;
  int victim_ = 0;
  int victim_turns_ = 0;
  bool is_stopping_ = false;
  std::thread courier_;
};

}  // namespace dynatrain
