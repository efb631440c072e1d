#pragma once

#include "dynatrain/execution/transport.hpp"

#include "torch/c10d_group.hpp"
#include "torch/waiter_pool.hpp"
#include <atomic>
#include <chrono>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// Messages over any torch ProcessGroup that moves host memory (Gloo).
///
/// Wire      every message begins with a head: its size and its first bytes; the rest follows in
///           pieces whose wire tag depends on the size. So ends that disagree about a size learn it
///           from the head, and Gloo never meets a piece longer than its buffer (which would end
///           the process). See docs/design/torch.md, "Messages".
/// Threads   any; the GIL is taken to post and given up in every wait, so do not call it with the
///           GIL held. One thread waits for all messages of a submission, one after the other: a
///           peer that fails meanwhile closes its connections, and so do those that wait for it.
/// Errors    through the tokens: TransportError with the peer. The first failure (peer gone, wrong
///           size, deadline, abort) closes every connection of the group, so that all its messages
///           end and their memory is free; the transport is of no further use. std::bad_alloc ends
///           it too once something is posted; what posting takes of memory is taken before.
/// Source    own; docs/design/torch.md.
class C10dTransport final : public Transport {
 public:
  /// No wait is longer than `timeout`, whatever deadline a submission has. Needs the GIL.
  C10dTransport(const pybind11::object& group, std::chrono::milliseconds timeout);
  /// Ends what is pending as abort() does. With or without the GIL.
  ~C10dTransport() override;
  C10dTransport(const C10dTransport&) = delete;
  C10dTransport& operator=(const C10dTransport&) = delete;

  [[nodiscard]] int rank() const override { return group_.rank(); }
  [[nodiscard]] int size() const override { return group_.size(); }
  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override;
  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override;
  void abort(std::string_view reason) noexcept override;

 private:
  struct Operation;
  struct Submission;
  using Operations = std::list<std::vector<Operation>>;  ///< one of a submission, moved as a node

  Token submit(const std::shared_ptr<Submission>& submission,
               std::span<const WireMessage> messages,
               std::span<const Token> after);
  void post_all(Submission& submission) noexcept;
  bool post(Submission& submission, Operation& operation) noexcept;
  void wait_for(Submission& submission) noexcept;
  void receive_all(Submission& submission, std::span<Operation> operations) noexcept;
  [[nodiscard]] bool wait_for(Submission& submission, Operation& operation) noexcept;
  [[nodiscard]] static bool is_given_later(const Submission& submission,
                                           const Operation& operation);
  void forget_receipts() noexcept;
  [[nodiscard]] std::string text_of_end(Submission& submission, Operation& operation) noexcept;
  void fail(Submission& submission, const std::exception_ptr& error, bool is_cause) noexcept;
  void finish(Submission& submission) noexcept;
  void close_connections() noexcept;

  C10dGroup group_;
  std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::exception_ptr cause_;  ///< what ended the transport
  Operations given_;          ///< receipts that may be under way; with the GIL
  std::atomic<bool> is_closed_{false};
  std::atomic<int> num_pending_{0};
  std::unique_ptr<WaiterPool> waiters_;
};

}  // namespace dynatrain
