#include "torch/c10d_transport.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/pause.hpp"

#include "base/error_from.hpp"
#include "torch/c10d_messages.hpp"
#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

namespace dynatrain {

namespace py = pybind11;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// One wire message. A message of the caller is a head, its pieces, an empty one behind them, and
/// an empty one that goes back. These two alone are waited for: whatever Gloo has begun to send or
/// to receive when a connection ends, it tells nobody of (docs/design/torch.md, "Messages").
struct C10dTransport::Operation {
  enum class Part : std::uint8_t { kHead, kPiece, kEnd, kReceipt };

  Part part = Part::kPiece;
  bool is_send = false;
  std::span<std::byte> bytes;
  int wire_tag = 0;
  WireMessage message;
  std::unique_ptr<std::byte[]> head;
  py::object work;  ///< null until it is posted
};

struct C10dTransport::Submission {
  using Part = Operation::Part;

  bool is_send = false;
  Deadline deadline;
  steady_clock::time_point start = steady_clock::now();
  std::shared_ptr<HostCompletion> completion = std::make_shared<HostCompletion>();
  Operations operations;           ///< in the order in which they are posted
  std::exception_ptr cause;        ///< the first failure of its own
  std::exception_ptr consequence;  ///< a failure that another one brought about

  /// Makes the operations of `messages`; nothing is posted.
  void put(std::span<const WireMessage> messages);

 private:
  void put_message(const WireMessage& message);
  void put_empty(Part part, const WireMessage& message);
};

void C10dTransport::Submission::put(std::span<const WireMessage> messages) {
  operations.emplace_back();
  for (const WireMessage& message : messages) {
    if (is_send) {
      put_empty(Part::kReceipt, message);  // the receiver can give it as soon as it has all, and go
    }
    put_message(message);
    put_empty(Part::kEnd, message);
    if (!is_send) {
      put_empty(Part::kReceipt, message);
    }
  }
}

void C10dTransport::Submission::put_message(const WireMessage& message) {
  std::unique_ptr<std::byte[]> head = is_send ? make_head(message) : empty_head();
  const std::span<std::byte> bytes(head.get(),
                                   is_send ? head_size_bytes(message.size_bytes) : kMaxHeadBytes);
  operations.front().push_back(
      {Part::kHead, is_send, bytes, head_tag(message.tag), message, std::move(head), {}});
  const int tag = piece_tag(message.tag, message.size_bytes);
  for (const std::span<std::byte> piece : pieces_after_head(message)) {
    operations.front().push_back({Part::kPiece, is_send, piece, tag, message, nullptr, {}});
  }
}

void C10dTransport::Submission::put_empty(Part part, const WireMessage& message) {
  const bool is_end = part == Part::kEnd;
  const int tag = is_end ? end_tag(message.tag) : receipt_tag(message.tag);
  operations.front().push_back({part, is_send == is_end, {}, tag, message, nullptr, {}});
}

C10dTransport::C10dTransport(const py::object& group, milliseconds timeout)
    : group_(group), timeout_(timeout), waiters_(std::make_unique<WaiterPool>()) {}

// pybind11's guard and abort() are not marked noexcept; neither throws here.
C10dTransport::~C10dTransport() {  // NOLINT(bugprone-exception-escape)
  std::optional<py::gil_scoped_release> no_gil;
  if (PyGILState_Check() != 0) {
    no_gil.emplace();
  }
  if (num_pending_.load() > 0) {
    abort("the transport was destroyed");
  }
  waiters_.reset();
  const py::gil_scoped_acquire gil;
  given_.clear();
}

Token C10dTransport::submit_sends(std::span<const WireMessage> messages,
                                  std::span<const Token> after,
                                  Deadline deadline) {
  auto submission = std::make_shared<Submission>();
  submission->is_send = true;
  submission->deadline = std::min(deadline, deadline_in(timeout_));
  return submit(submission, messages, after);
}

Token C10dTransport::submit_receives(std::span<const WireMessage> messages,
                                     std::span<const Token> after,
                                     Deadline deadline) {
  auto submission = std::make_shared<Submission>();
  submission->deadline = std::min(deadline, deadline_in(timeout_));
  return submit(submission, messages, after);
}

Token C10dTransport::submit(const std::shared_ptr<Submission>& submission,
                            std::span<const WireMessage> messages,
                            std::span<const Token> after) {
  Token token(submission->completion);
  WaiterPool::Task waiting;
  try {
    wait_all(after, submission->deadline);
    submission->put(messages);
    waiting = WaiterPool::Task([this, submission] { wait_for(*submission); });
  } catch (...) {
    submission->completion->fail(std::current_exception());
    return token;
  }
  // From here on others may read and write the memory: nothing may throw before they have ended.
  ++num_pending_;
  post_all(*submission);
  if (submission->operations.front().empty()) {
    finish(*submission);
  } else {
    waiters_->run(std::move(waiting));
  }
  return token;
}

// pybind11's guards, here and below, are not marked noexcept; they throw nothing once Python runs.
// NOLINTNEXTLINE(bugprone-exception-escape)
void C10dTransport::post_all(Submission& submission) noexcept {
  const py::gil_scoped_acquire gil;
  if (num_pending_.load() == 1) {
    forget_receipts();
  }
  std::vector<Operation>& operations = submission.operations.front();
  auto next = operations.begin();
  while (next != operations.end() &&
         (is_given_later(submission, *next) || post(submission, *next))) {
    ++next;
  }
  operations.erase(next, operations.end());
}

bool C10dTransport::is_given_later(const Submission& submission, const Operation& operation) {
  return operation.part == Operation::Part::kReceipt && !submission.is_send;
}

void C10dTransport::forget_receipts() noexcept {
  Operations given;
  const std::lock_guard lock(mutex_);
  given.swap(given_);
}

bool C10dTransport::post(Submission& submission, Operation& operation) noexcept {
  const WireMessage& message = operation.message;
  if (is_closed_.load()) {
    fail(submission, error_from([&] { return closed_error(message); }), false);
    return false;
  }
  if (message.peer < 0 || message.peer >= size() || message.peer == rank()) {
    fail(submission, error_from([&] { return no_such_peer_error(message, size()); }), true);
    return false;
  }
  try {
    operation.work = operation.is_send
                         ? group_.send(operation.bytes, message.peer, operation.wire_tag)
                         : group_.receive(operation.bytes, message.peer, operation.wire_tag);
    return true;
  } catch (const py::error_already_set& error) {
    const auto make = [&] {
      return peer_error(message, submission.is_send, C10dGroup::text_of(error));
    };
    fail(submission, error_from(make), true);
  } catch (...) {
    fail(submission, std::current_exception(), true);
  }
  return false;
}

// NOLINTNEXTLINE(bugprone-exception-escape)
void C10dTransport::wait_for(Submission& submission) noexcept {
  {
    const py::gil_scoped_acquire gil;
    std::vector<Operation>& operations = submission.operations.front();
    if (submission.is_send) {
      for (Operation& operation : operations) {
        if (operation.part == Operation::Part::kReceipt) {
          static_cast<void>(wait_for(submission, operation));
        }
      }
    } else {
      receive_all(submission, operations);
    }
    std::erase_if(operations,
                  [&](const Operation& each) { return !is_given_later(submission, each); });
    const std::lock_guard lock(mutex_);
    given_.splice(given_.end(), submission.operations);
  }
  finish(submission);
}

void C10dTransport::receive_all(Submission& submission, std::span<Operation> operations) noexcept {
  const auto is_end = [](const Operation& each) { return each.part == Operation::Part::kEnd; };
  for (auto begin = operations.begin(); begin != operations.end();) {
    const auto end = std::find_if(begin, operations.end(), is_end);
    if (end == operations.end()) {
      return;  // it could not be posted, and the connections are closed
    }
    const bool is_whole = wait_for(submission, *end) && std::all_of(begin, end, [&](auto& each) {
                            return wait_for(submission, each);
                          });
    begin = std::next(end);
    if (begin != operations.end()) {
      Operation& receipt = *begin++;
      if (is_whole) {
        static_cast<void>(post(submission, receipt));
      }
    }
  }
}

bool C10dTransport::wait_for(Submission& submission, Operation& operation) noexcept {
  const std::string text = text_of_end(submission, operation);
  const bool was_closed = is_closed_.load();
  const WireMessage& message = operation.message;
  const auto peer_failed = [&] { return peer_error(message, submission.is_send, text); };
  if (text.empty()) {
    if (operation.part != Operation::Part::kHead || take_head(operation.head.get(), message)) {
      return true;
    }
    const auto make = [&] { return size_error(message, size_in_head(operation.head.get())); };
    fail(submission, error_from(make), true);
  } else if (was_closed || says_consequence(text)) {
    fail(submission, error_from(peer_failed), false);
  } else if (steady_clock::now() >= submission.deadline) {
    const auto waited = std::chrono::duration<double>(steady_clock::now() - submission.start);
    const auto make = [&] { return deadline_error(message, submission.is_send, waited.count()); };
    fail(submission, error_from(make), true);
  } else {
    fail(submission, error_from(peer_failed), true);
  }
  return false;
}

// NOLINTNEXTLINE(bugprone-exception-escape)
std::string C10dTransport::text_of_end(Submission& submission, Operation& operation) noexcept {
  for (Pause pause;;) {
    const auto left = std::chrono::ceil<milliseconds>(submission.deadline - steady_clock::now());
    try {
      return group_.wait(operation.work, std::max(left, milliseconds(1)));
    } catch (...) {  // no memory: nobody knows whether the operation still has its own
      fail(submission, std::current_exception(), true);
    }
    if (steady_clock::now() >= submission.deadline) {
      return {};
    }
    const py::gil_scoped_release no_gil;
    pause();
  }
}

void C10dTransport::fail(Submission& submission,
                         const std::exception_ptr& error,
                         bool is_cause) noexcept {
  std::exception_ptr& place = is_cause ? submission.cause : submission.consequence;
  if (place == nullptr) {
    place = error;
  }
  if (is_cause) {
    {
      const std::lock_guard lock(mutex_);
      if (cause_ == nullptr) {
        cause_ = error;
      }
    }
    close_connections();
  }
}

void C10dTransport::finish(Submission& submission) noexcept {
  --num_pending_;
  std::exception_ptr error = submission.cause;
  if (error == nullptr && submission.consequence != nullptr) {
    const std::lock_guard lock(mutex_);
    error = cause_ != nullptr ? cause_ : submission.consequence;
  }
  if (error != nullptr) {
    submission.completion->fail(std::move(error));
  } else {
    submission.completion->set();
  }
}

void C10dTransport::close_connections() noexcept {
  if (!is_closed_.exchange(true)) {
    group_.sever();
  }
}

void C10dTransport::abort(std::string_view reason) noexcept {
  std::exception_ptr aborted = error_from(
      [&] { return TransportError("transport: aborted: " + std::string(reason), -1, -1, true); });
  {
    const std::lock_guard lock(mutex_);
    if (cause_ == nullptr) {
      cause_ = std::move(aborted);
    }
  }
  try {
    const py::gil_scoped_acquire gil;
    close_connections();
  } catch (...) {
    // Waits still end at their deadlines.
    is_closed_.store(true);
  }
}

}  // namespace dynatrain
