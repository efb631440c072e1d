#pragma once

#include "dynatrain/base/error.hpp"
#include "dynatrain/transport/nccl.hpp"

#include "transport/nccl/device_api.hpp"
#include "transport/nccl/ending.hpp"
#include "transport/nccl/groups.hpp"
#include "transport/nccl/nccl_api.hpp"
#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace dynatrain {

/// One rank's communicator, the stream on which its groups run in order, and its first failure.
///
/// Threads   any; a group is posted by one thread at a time (the transport sees to it). No call
/// that
///           can wait for a peer is made while the lock is held, so fail() always gets through. The
///           rank's device is made current in whatever thread calls: NCCL and the runtime would
///           make a context on that thread's device otherwise.
/// Errors    whatever goes wrong is a TransportError or DeviceError that the caller passes to
///           fail(), which aborts the communicator; the world is of no further use then.
class NcclWorld {
 public:
  NcclWorld(NcclLibraries libraries, int rank, int size, const NcclOptions& options);
  ~NcclWorld();
  NcclWorld(const NcclWorld&) = delete;
  NcclWorld& operator=(const NcclWorld&) = delete;

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] const NcclOptions& options() const { return options_; }
  [[nodiscard]] DeviceApi& device() { return *libraries_.device; }
  [[nodiscard]] NcclApi& nccl() { return *libraries_.nccl; }

  /// Makes the communicator. On an error it is aborted before the error is thrown.
  void connect(Store& store, Deadline deadline);
  /// Lets a stream of the device wait for an event of this communicator's.
  void order_before(void* event, void* stream);
  [[nodiscard]] void* stream() const { return stream_->stream(); }
  /// Issues one group and returns the event that is recorded behind it, to be given back.
  /// Waits for the peers where a link is used for the first time, and while as many groups of this
  /// rank are under way as may be; all of those are earlier ones, so the lowest group still runs.
  [[nodiscard]] void* post(const OpGroup& group, Deadline deadline);
  [[nodiscard]] bool is_done(void* event);
  void give_back(void* event) noexcept;

  /// Throws TransportError when NCCL has seen an error since; `peers` are those that are waited
  /// for.
  void check_async(const std::vector<int>& peers);
  /// Keeps the first cause and aborts the communicator.
  void fail(const TransportError& cause) noexcept;
  /// The same with the cause that `make` returns; where there is no memory for it, with that.
  template <class Make>
  void fail_with(const Make& make) noexcept {
    try {
      fail(make());
    } catch (...) {
      fail(no_memory_);
    }
  }
  /// The same because of `error`; what is no TransportError is told in one.
  void fail_because(const std::exception& error) noexcept;
  [[nodiscard]] bool has_failed() const;
  /// After a failure: true once the abort has ended and all that it left on the stream is gone,
  /// groups too that no event was recorded behind.
  [[nodiscard]] bool has_let_go() noexcept;
  /// Throws the first cause, if there is one.
  void throw_if_failed() const;
  /// Lets go of the communicator: in peace when nothing is pending, by abort otherwise.
  void close() noexcept;

  /// Registers memory with the communicator and returns NCCL's handle.
  /// Errors  DeviceError when NCCL refuses; the communicator is as good as before. TransportError
  ///         after a failure.
  [[nodiscard]] void* register_memory(std::byte* memory, std::int64_t size_bytes);
  /// Ends a registration, unless the end of the communicator has done so.
  void deregister(void* handle) noexcept;

 private:
  /// A group that was issued, by the last event of all that is recorded behind it.
  struct UnderWay {
    void* event = nullptr;
    std::vector<int> peers;
  };
  /// Some way below the 1024 operations that CUDA queues for a stream before it blocks the caller;
  /// a group is a kernel, two events here and a few of NCCL's own.
  static constexpr std::size_t kMaxGroupsUnderWay = 64;

  void wait_until_ready(const char* what, const std::vector<int>& peers, Deadline deadline);
  void wait_for_room(const UnderWay& oldest, Deadline deadline);
  [[nodiscard]] void* take_event();
  [[noreturn]] void throw_late(const char* what, const std::vector<int>& peers) const;
  void throw_if_failed_locked() const;
  void issue(const OpGroup& group);
  [[nodiscard]] NcclResult issue_ops(const OpGroup& group, NcclComm comm);
  /// Errors: TransportError unless `result` is good, with NCCL's own words.
  void check(NcclResult result, const char* what, const std::vector<int>& peers, NcclComm comm);
  /// Ends the communicator, if it has not ended yet: by abort with a cause, else in peace.
  void end(const TransportError* cause) noexcept;
  [[nodiscard]] bool has_ended_locked() const { return !is_ending_ || ended_->done(); }
  [[nodiscard]] bool is_idle() noexcept;

  NcclLibraries libraries_;
  int rank_;
  int size_;
  NcclOptions options_;
  std::shared_ptr<GroupStream> stream_;
  mutable std::mutex mutex_;
  NcclComm comm_ = nullptr;
  std::optional<TransportError> failure_;
  bool is_ending_ = false;  ///< for good; a communicator ends once
  std::shared_ptr<HostCompletion> ended_ = std::make_shared<HostCompletion>();
  std::vector<void*> registrations_;  ///< handles of the communicator, none after its end
  std::vector<void*> free_events_;    ///< has room for all events that were ever given out
  std::size_t num_given_out_ = 0;
  std::array<UnderWay, kMaxGroupsUnderWay> under_way_{};  ///< a ring; of the posting thread
  std::size_t num_groups_ = 0;                            ///< ever issued
  const TransportError no_memory_{
      // made while there is memory
      "transport: this rank had no memory left for its sends and receives\n  the communicator is "
      "aborted",
      -1,
      -1,
      true};
};

/// " 3", or " one of 1, 3, 4": for messages.
[[nodiscard]] std::string name_peers(const std::vector<int>& peers);
/// The one peer, or -1 when it could be any of several.
[[nodiscard]] int only_peer(const std::vector<int>& peers);

}  // namespace dynatrain
