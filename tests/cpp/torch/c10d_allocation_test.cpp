#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>
#include <pybind11/embed.h>

#include "failing_allocation.hpp"
#include "torch/c10d_messages.hpp"
#include "torch/c10d_transport.hpp"
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

namespace py = pybind11;
using testing::FailingAllocation;

constexpr std::chrono::seconds kLimit{20};

/// Stands for torch and one of its groups: an operation has its memory from the time when it is
/// posted until it is waited for, or until a wait that times out closes the group's connections; a
/// message that is sent also until its receipt was waited for.
constexpr const char* kFakeTorch = R"(
import sys, types
torch = types.ModuleType("torch")
torch.frombuffer = lambda view, dtype: view
torch.uint8 = None
torch.empty = lambda size, dtype, device: memoryview(b"")
sys.modules["torch"] = torch
NEVER_SENT = 0x7fffffff
DIGEST = 1 << 19

class Work:
    def __init__(self, group, data, tag, is_send):
        self.group, self.data, self.tag, self.is_send = group, data, tag, is_send
        self.has_memory = not self.is_empty()
        group.works.append(self)

    def is_empty(self):
        return self.tag // DIGEST >= 4094

    def wait(self, timeout):
        self.group.fail_at("wait")
        if self.tag == NEVER_SENT:
            self.group.is_closed = True
            for work in self.group.works:
                work.has_memory = False
            raise RuntimeError("timed out")
        if self.group.is_closed:
            raise RuntimeError("the time-out of another one caused pair closure")
        if self.is_empty():
            for work in self.group.works:
                if work.is_send and work.tag % DIGEST // 2 == self.tag % DIGEST // 2:
                    work.has_memory = False
        elif not self.is_send and self.tag % 2 == 0:
            self.data[:8] = self.group.size_bytes.to_bytes(8, sys.byteorder)
        self.has_memory = False

class Group:
    def __init__(self, size_bytes, failing_call=None):
        self.works, self.is_closed, self.size_bytes = [], False, size_bytes
        self.failing_call = failing_call

    def fail_at(self, call):
        if call == self.failing_call:
            self.failing_call = None
            raise MemoryError

    def rank(self): return 0
    def size(self): return 2

    def post(self, tensors, tag, is_send):
        if self.is_closed:
            raise RuntimeError("closed")
        if tag != NEVER_SENT:
            self.fail_at("post")
        return Work(self, tensors[0], tag, is_send)

    def send(self, tensors, peer, tag): return self.post(tensors, tag, True)
    def recv(self, tensors, peer, tag): return self.post(tensors, tag, False)
    def num_with_memory(self): return sum(work.has_memory for work in self.works)
)";

/// More than a head, so that a message is two operations.
constexpr std::int64_t kSizeBytes = std::int64_t{3} * 4096;

class Failing : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() {
    static const py::scoped_interpreter kInterpreter;
    py::exec(kFakeTorch, py::globals());
  }

  static py::object make_group(const py::object& failing_call = py::none()) {
    return py::globals()["Group"](kSizeBytes, failing_call);
  }

  Token submit(C10dTransport& transport) {
    const std::array<WireMessage, 2> messages{
        WireMessage{.peer = 1, .tag = 1, .data = bytes_.data(), .size_bytes = kSizeBytes},
        WireMessage{
            .peer = 1, .tag = 2, .data = bytes_.data() + kSizeBytes, .size_bytes = kSizeBytes}};
    const py::gil_scoped_release no_gil;
    return GetParam() ? transport.submit_sends(messages, {}, deadline_in(kLimit))
                      : transport.submit_receives(messages, {}, deadline_in(kLimit));
  }

  /// What became of a submission: "" when it ended well.
  std::string end_of(C10dTransport& transport) {
    try {
      const Token token = submit(transport);
      const py::gil_scoped_release no_gil;
      token.wait(deadline_in(kLimit));
    } catch (const std::bad_alloc&) {
      return "no memory";
    } catch (const TransportError& error) {
      return error.what();
    }
    return "";
  }

  struct Outcome {
    std::string end;  ///< of end_of()
    bool has_failed = false;
    int num_with_memory = 0;
  };

  /// One submission on a transport of its own, in which allocations fail behind `num_good`.
  Outcome submit_with(std::int64_t num_good, std::int64_t num_failures) {
    const py::object group = make_group();
    C10dTransport transport(group, kLimit);
    Outcome outcome;
    {
      const FailingAllocation failing(num_good, num_failures);
      outcome.end = end_of(transport);
      outcome.has_failed = FailingAllocation::has_failed();
    }
    outcome.num_with_memory = num_with_memory(group);
    return outcome;
  }

  static int num_with_memory(const py::object& group) {
    return group.attr("num_with_memory")().cast<int>();
  }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(2 * kSizeBytes);
};

// Memory may run out at any place. A caller that gets the error gives the messages' memory away: a
// peer would then write into what is another's. And one who gets none believes in what arrived.
TEST_P(Failing, NoOperationOutlivesASubmissionThatFindsNoMemory) {
  Outcome last;
  std::set<std::string> ends;
  int num_failed = 0;
  do {
    last = submit_with(num_failed++, 1);
    ASSERT_EQ(last.num_with_memory, 0) << "after " << num_failed - 1 << ": " << last.end;
    ends.insert(last.end);
  } while (last.has_failed);
  EXPECT_EQ(ends, (std::set<std::string>{"", "no memory"}));
  EXPECT_GT(num_failed, 10);
}

// The same where there is no memory for a while: what reports a failure finds none either.
TEST_P(Failing, NoOperationOutlivesASubmissionWhileMemoryIsGone) {
  Outcome last;
  int num_failed = 0;
  do {
    last = submit_with(num_failed++, 3);
    ASSERT_EQ(last.num_with_memory, 0) << "after " << num_failed - 1 << ": " << last.end;
  } while (last.has_failed);
}

// torch says it by Python's MemoryError: that is no word about the peer, and a wait that raised it
// has not waited.
TEST_P(Failing, PythonsMemoryErrorIsNoFailureOfThePeer) {
  for (const char* const call : {"post", "wait"}) {
    const py::object group = make_group(py::str(call));
    C10dTransport transport(group, kLimit);

    EXPECT_EQ(end_of(transport), "no memory") << call;
    EXPECT_EQ(num_with_memory(group), 0) << call;
  }
}

// What was refused before anything was posted leaves the transport good for the next submission.
TEST_P(Failing, ASubmissionThatPostedNothingLeavesTheTransportUsable) {
  const py::object group = make_group();
  C10dTransport transport(group, kLimit);
  {
    const FailingAllocation failing(3);
    EXPECT_EQ(end_of(transport), "no memory");
  }

  EXPECT_EQ(end_of(transport), "");
}

INSTANTIATE_TEST_SUITE_P(C10dAllocations, Failing, ::testing::Bool(), [](const auto& test) {
  return test.param ? "Sends" : "Receives";
});

}  // namespace
}  // namespace dynatrain
