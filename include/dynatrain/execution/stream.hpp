#pragma once

#include "dynatrain/base/token.hpp"
#include "dynatrain/schedule/stream_plan.hpp"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

namespace dynatrain {

class TagCounter;  // csrc/execution/notes.hpp
class Transport;

/// Port: memory of one rank's state that a run takes and frees, storage by storage, while it goes.
/// Threads  the one that calls run().
class StreamedMemory {
 public:
  virtual ~StreamedMemory() = default;
  /// Takes the memory of a target storage; returns where it begins. It is written at once.
  /// Errors  std::bad_alloc, DeviceError.
  [[nodiscard]] virtual std::byte* take(int storage) = 0;
  /// Gives the memory of a source storage back. Nobody reads it any more.
  virtual void free(int storage) noexcept = 0;
};

/// How far the ranks are, all of them: made by Executor::make_watermark(), for one run.
///
/// The ranks tell in step: what one tells for the n-th time meets what every other tells for its
/// n-th, in ceil(log2 N) rounds of one word each way (dissemination), by a thread of its own.
/// Threads  tell(): the one that runs what its executor runs, too; abort(): any.
class Watermark {
 public:
  Watermark(Transport& transport, TagCounter& tags);
  /// Aborts the transport where something that was told has not ended.
  ~Watermark();
  Watermark(const Watermark&) = delete;
  Watermark& operator=(const Watermark&) = delete;

  /// This rank has landed its first `stages` stages. Never waits for a peer.
  /// Returns  ends when every rank has told as much as often.
  /// Errors   through the token: TransportError when a rank is gone or late; InternalError when
  ///          ranks have told different numbers. Thrown: std::bad_alloc.
  [[nodiscard]] Token tell(int stages, Deadline deadline);
  /// Aborts the transport with the words of `error`: nobody waits for a rank that has failed.
  void abort(const std::exception_ptr& error) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What a run needs that frees the source while the target arrives.
/// Ownership  both references outlive the run.
struct Streaming {
  StreamPlan plan;
  Storages target;                                ///< that the plan was made from
  std::vector<std::int64_t> target_offset_bytes;  ///< of each tensor within its storage
  StreamedMemory& memory;
  Watermark& watermark;
};

}  // namespace dynatrain
