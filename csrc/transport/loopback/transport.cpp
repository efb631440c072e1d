#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/loopback.hpp"

#include "transport/loopback/world.hpp"
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace dynatrain {

struct LoopbackWorld::Shared {
  Shared(int size, LoopbackOptions options) : state(size, options) {}
  LoopbackState state;
};

namespace {

class LoopbackTransport final : public Transport, public OneSided {
 public:
  LoopbackTransport(std::shared_ptr<LoopbackState> state, int rank)
      : state_(std::move(state)), rank_(rank) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return state_->size(); }

  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override {
    return submit(true, messages, after, deadline);
  }

  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override {
    return submit(false, messages, after, deadline);
  }

  void abort(std::string_view reason) noexcept override {
    state_->remove(rank_, "rank " + std::to_string(rank_) + " aborted: " + std::string(reason));
  }

  [[nodiscard]] OneSided* one_sided() noexcept override {
    return state_->options().one_sided ? this : nullptr;
  }

  [[nodiscard]] bool reaches(int peer) const override {
    const int of_one = state_->options().ranks_per_machine;
    return of_one == 0 || peer / of_one == rank_ / of_one;
  }

  Unreadable publish(std::span<const ExposedBuffer> buffers) override {
    state_->publish(rank_, ++num_published_, buffers);
    return {};
  }

  [[nodiscard]] SourceAddress map(int peer, BufferId buffer, Deadline deadline) override {
    return {.base = state_->map(
                {.rank = rank_, .peer = peer, .publication = num_published_}, buffer, deadline)};
  }

  void withdraw() override { state_->withdraw(rank_); }

 private:
  Token submit(bool is_send,
               std::span<const WireMessage> messages,
               std::span<const Token> after,
               Deadline deadline) {
    try {
      wait_all(after, deadline);
      return state_->post(rank_, is_send, messages, deadline);
    } catch (...) {
      auto failed = std::make_shared<HostCompletion>();
      failed->fail(std::current_exception());
      return Token(std::move(failed));
    }
  }

  std::shared_ptr<LoopbackState> state_;
  int rank_;
  std::int64_t num_published_ = 0;
};

}  // namespace

LoopbackWorld::LoopbackWorld(int size, LoopbackOptions options)
    : shared_(std::make_shared<Shared>(size, options)) {
  DYNATRAIN_CHECK(size >= 1, "transport: a loopback world needs at least one rank");
}

LoopbackWorld::~LoopbackWorld() = default;

std::unique_ptr<Transport> LoopbackWorld::transport(int rank) {
  DYNATRAIN_CHECK(rank >= 0 && rank < shared_->state.size(),
                  "transport: the loopback world has no rank " + std::to_string(rank));
  return std::make_unique<LoopbackTransport>(
      std::shared_ptr<LoopbackState>(shared_, &shared_->state), rank);
}

void LoopbackWorld::kill(int rank) {
  DYNATRAIN_CHECK(rank >= 0 && rank < shared_->state.size(),
                  "transport: the loopback world has no rank " + std::to_string(rank));
  shared_->state.remove(rank, "rank " + std::to_string(rank) + " was killed");
}

}  // namespace dynatrain
