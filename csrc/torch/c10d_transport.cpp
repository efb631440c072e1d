#include "torch/c10d_transport.hpp"

#include "torch/c10d_messages.hpp"
#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <utility>
#include <vector>

namespace dynatrain {

namespace py = pybind11;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// One posted wire message. A message of the caller is a head and then its pieces.
struct C10dTransport::Operation {
  py::object work;
  WireMessage message;
  std::unique_ptr<std::byte[]> head;  ///< null for pieces
};

struct C10dTransport::Submission {
  bool is_send = false;
  Deadline deadline;
  steady_clock::time_point start = steady_clock::now();
  std::shared_ptr<HostCompletion> completion = std::make_shared<HostCompletion>();
  std::vector<Operation> operations;          ///< in the order in which they were posted
  std::optional<TransportError> cause;        ///< the first failure of its own
  std::optional<TransportError> consequence;  ///< a failure that another one brought about
};

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
  try {
    wait_all(after, submission->deadline);
  } catch (...) {
    submission->completion->fail(std::current_exception());
    return token;
  }
  ++num_pending_;
  post_all(*submission, messages);
  if (submission->operations.empty()) {
    finish(*submission);
  } else {
    waiters_->run([this, submission] { wait_for(*submission); });
  }
  return token;
}

void C10dTransport::post_all(Submission& submission, std::span<const WireMessage> messages) {
  const py::gil_scoped_acquire gil;
  for (const WireMessage& message : messages) {
    if (is_closed_.load()) {
      fail(submission, closed_error(message), false);
      return;
    }
    if (message.peer < 0 || message.peer >= size() || message.peer == rank()) {
      fail(submission, no_such_peer_error(message, size()), true);
      return;
    }
    try {
      post(submission, message);
    } catch (const py::error_already_set& error) {
      fail(submission, peer_error(message, submission.is_send, C10dGroup::text_of(error)), true);
      return;
    }
  }
}

void C10dTransport::post(Submission& submission, const WireMessage& message) {
  const bool is_send = submission.is_send;
  const auto post_bytes = [&](std::span<std::byte> bytes, int wire_tag) {
    return is_send ? group_.send(bytes, message.peer, wire_tag)
                   : group_.receive(bytes, message.peer, wire_tag);
  };
  std::unique_ptr<std::byte[]> head = is_send ? make_head(message) : empty_head();
  const std::span<std::byte> head_bytes(
      head.get(), is_send ? head_size_bytes(message.size_bytes) : kMaxHeadBytes);
  py::object work = post_bytes(head_bytes, head_tag(message.tag));
  submission.operations.push_back({std::move(work), message, std::move(head)});
  for (const std::span<std::byte> piece : pieces_after_head(message)) {
    work = post_bytes(piece, piece_tag(message.tag, message.size_bytes));
    submission.operations.push_back({std::move(work), message, nullptr});
  }
}

void C10dTransport::wait_for(Submission& submission) {
  {
    const py::gil_scoped_acquire gil;
    for (Operation& operation : submission.operations) {
      wait_for(submission, operation);
    }
    submission.operations.clear();
  }
  finish(submission);
}

void C10dTransport::wait_for(Submission& submission, Operation& operation) {
  const auto left = std::chrono::ceil<milliseconds>(submission.deadline - steady_clock::now());
  const std::string text = group_.wait(operation.work, std::max(left, milliseconds(1)));
  const bool was_closed = is_closed_.load();
  const WireMessage& message = operation.message;
  if (text.empty()) {
    const bool is_received_head = operation.head != nullptr && !submission.is_send;
    if (is_received_head && !take_head(operation.head.get(), message)) {
      fail(submission, size_error(message, size_in_head(operation.head.get())), true);
    }
  } else if (was_closed || says_consequence(text)) {
    fail(submission, peer_error(message, submission.is_send, text), false);
  } else if (steady_clock::now() >= submission.deadline) {
    const auto waited = std::chrono::duration<double>(steady_clock::now() - submission.start);
    fail(submission, deadline_error(message, submission.is_send, waited.count()), true);
  } else {
    fail(submission, peer_error(message, submission.is_send, text), true);
  }
}

void C10dTransport::fail(Submission& submission, const TransportError& error, bool is_cause) {
  std::optional<TransportError>& place = is_cause ? submission.cause : submission.consequence;
  if (!place) {
    place.emplace(error);
  }
  if (is_cause) {
    {
      const std::lock_guard lock(mutex_);
      if (!cause_) {
        cause_.emplace(error);
      }
    }
    close_connections();
  }
}

void C10dTransport::finish(Submission& submission) {
  --num_pending_;
  std::optional<TransportError> error = submission.cause;
  if (!error && submission.consequence) {
    const std::lock_guard lock(mutex_);
    error = cause_ ? cause_ : submission.consequence;
  }
  if (error) {
    submission.completion->fail(std::make_exception_ptr(*error));
  } else {
    submission.completion->set();
  }
}

void C10dTransport::close_connections() {
  if (!is_closed_.exchange(true)) {
    group_.sever();
  }
}

void C10dTransport::abort(const std::string& reason) noexcept {
  try {
    {
      const std::lock_guard lock(mutex_);
      if (!cause_) {
        cause_.emplace("transport: aborted: " + reason, -1, -1, true);
      }
    }
    const py::gil_scoped_acquire gil;
    close_connections();
  } catch (...) {
    // Waits still end at their deadlines.
    is_closed_.store(true);
  }
}

}  // namespace dynatrain
