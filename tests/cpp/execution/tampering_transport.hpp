#pragma once

// A transport that damages what one rank sends.

#include "dynatrain/execution/transport.hpp"

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace dynatrain {

/// Calls `before_send` ahead of every batch of sends, with a copy of its messages. Batch 0 is that
/// of agree(), the others carry bytes of stages.
class TamperingTransport final : public Transport {
 public:
  using BeforeSend = std::function<void(int batch, std::vector<WireMessage>& messages)>;

  TamperingTransport(std::unique_ptr<Transport> inner, BeforeSend before_send)
      : inner_(std::move(inner)), before_send_(std::move(before_send)) {}

  [[nodiscard]] int rank() const override { return inner_->rank(); }
  [[nodiscard]] int size() const override { return inner_->size(); }
  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override {
    wait_all(after, deadline);
    std::vector<WireMessage> changed(messages.begin(), messages.end());
    before_send_(num_batches_++, changed);
    return inner_->submit_sends(changed, {}, deadline);
  }
  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override {
    return inner_->submit_receives(messages, after, deadline);
  }
  void abort(std::string_view reason) noexcept override { inner_->abort(reason); }

 private:
  std::unique_ptr<Transport> inner_;
  BeforeSend before_send_;
  int num_batches_ = 0;
};

}  // namespace dynatrain
