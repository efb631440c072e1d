#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"
#include "dynatrain/execution/stream.hpp"
#include "dynatrain/execution/transport.hpp"

#include "execution/abort_because.hpp"
#include "execution/draining.hpp"
#include "execution/notes.hpp"
#include <array>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace dynatrain {
namespace {

/// The transport names the peer at the deadline, so it is given the time to do so.
constexpr std::chrono::milliseconds kTransportsOwnDeadline{200};

/// One word to a peer and one from another; memory of its own, that stays while messages lie there.
struct Round {
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  WireMessage send;
  WireMessage receive;
};

/// What was told once. Its memory must not move.
struct Told {
  Deadline deadline;
  std::deque<Round> rounds;
  std::shared_ptr<HostCompletion> ended = std::make_shared<HostCompletion>();
};

void check_same(int rank, const Round& round) {
  if (round.sent != round.received) {
    throw InternalError("execution: rank " + std::to_string(rank) + " has landed " +
                        std::to_string(round.sent) + " stages where rank " +
                        std::to_string(round.receive.peer) + " has landed " +
                        std::to_string(round.received) +
                        "\n  no memory was freed for it\n  the ranks run different schedules; "
                        "please report this as a bug of dynatrain");
  }
}

}  // namespace

struct Watermark::Impl {
  Impl(Transport& over, TagCounter& tag_counter) : transport(over), tags(tag_counter) {
    DYNATRAIN_CHECK(transport.message_place() == Place::kHost,
                    "execution: words of host memory for a transport of device memory");
    thread = start_thread("tells how far a rank is", [this] { serve(); });
  }

  Transport& transport;
  TagCounter& tags;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::unique_ptr<Told>> waiting;
  std::size_t num_open = 0;  ///< told, and not ended yet
  bool is_stopping = false;
  std::thread thread;

  std::unique_ptr<Told> make(int stages, Deadline deadline);
  /// The thread: nothing leaves it, but fails what was told.
  void serve() noexcept;
  void tell_all(std::unique_ptr<Told> told) noexcept;
  /// Before its token ends: who hears that may destroy this at once.
  void close() {
    const std::lock_guard lock(mutex);
    --num_open;
  }
  void exchange(const Round& round, std::array<Token, 2>& tokens, Deadline deadline) const;
};

std::unique_ptr<Told> Watermark::Impl::make(int stages, Deadline deadline) {
  auto told = std::make_unique<Told>();
  told->deadline = deadline;
  const int num_ranks = transport.size();
  for (int distance = 1; distance < num_ranks; distance *= 2) {
    Round& round = told->rounds.emplace_back();
    round.sent = static_cast<std::uint64_t>(stages);
    const int to = (transport.rank() + distance) % num_ranks;
    const int from = (transport.rank() + num_ranks - distance) % num_ranks;
    round.send = {.peer = to,
                  .tag = tags.next_send(to),
                  .data = reinterpret_cast<std::byte*>(&round.sent),
                  .size_bytes = sizeof(round.sent)};
    round.receive = {.peer = from,
                     .tag = tags.next_receive(from),
                     .data = reinterpret_cast<std::byte*>(&round.received),
                     .size_bytes = sizeof(round.received)};
  }
  return told;
}

void Watermark::Impl::serve() noexcept {
  while (true) {
    std::unique_ptr<Told> told;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return is_stopping || !waiting.empty(); });
      if (waiting.empty()) {
        return;
      }
      told = std::move(waiting.front());
      waiting.pop_front();
    }
    tell_all(std::move(told));
  }
}

void Watermark::Impl::tell_all(std::unique_ptr<Told> told) noexcept {
  std::array<Token, 2> tokens;
  try {
    for (const Round& round : told->rounds) {
      exchange(round, tokens, told->deadline);
      check_same(transport.rank(), round);
    }
    close();
    told->ended->set();
  } catch (...) {
    close();
    told->ended->fail(std::current_exception());
    abort_because(std::current_exception(), transport);  // later words fail at once
    if (!drain(tokens, deadline_in(kDrainTime))) {
      static_cast<void>(told.release());  // NOLINT(bugprone-unused-return-value)
    }
  }
}

void Watermark::Impl::exchange(const Round& round,
                               std::array<Token, 2>& tokens,
                               Deadline deadline) const {
  ExchangeTokens posted = transport.exchange(
      {.sends = std::span(&round.send, 1), .receives = std::span(&round.receive, 1)}, {}, deadline);
  tokens = {std::move(posted.received), std::move(posted.sent)};
  wait_all(tokens, deadline + kTransportsOwnDeadline);
}

Watermark::Watermark(Transport& transport, TagCounter& tags)
    : impl_(std::make_unique<Impl>(transport, tags)) {}

Watermark::~Watermark() {
  bool is_pending = false;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->is_stopping = true;
    is_pending = impl_->num_open > 0;
  }
  impl_->changed.notify_all();
  if (is_pending) {
    impl_->transport.abort("a run has ended before all ranks were as far");
  }
  impl_->thread.join();
}

Token Watermark::tell(int stages, Deadline deadline) {
  std::unique_ptr<Told> told = impl_->make(stages, deadline);
  Token token(told->ended);
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->waiting.push_back(std::move(told));
    ++impl_->num_open;
  }
  impl_->changed.notify_all();
  return token;
}

void Watermark::abort(const std::exception_ptr& error) noexcept {
  abort_because(error, impl_->transport);
}

}  // namespace dynatrain
