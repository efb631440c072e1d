#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace dynatrain {

/// A torch ProcessGroup, called through its Python methods: the one place that knows c10d's words.
///
/// torch's stable ABI has no process group before 2.15's `_c10d_functional::isend`, and no wait
/// with a deadline at all, so this takes the public methods, which torch 2.11 to 2.15 share; see
/// docs/design/torch.md, "Reaching c10d".
/// Threads   every method needs the GIL unless it says otherwise; wait() gives it up while it
/// waits.
class C10dGroup {
 public:
  /// `group` is a torch.distributed.ProcessGroup, or the name of a registered one.
  explicit C10dGroup(const pybind11::object& group);
  /// Takes the GIL.
  ~C10dGroup();
  C10dGroup(const C10dGroup&) = delete;
  C10dGroup& operator=(const C10dGroup&) = delete;

  /// No GIL needed.
  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }

  /// Posts one message and returns torch's Work. The memory must live until wait() returns, or the
  /// Work has gone. Empty ones are messages, too.
  [[nodiscard]] pybind11::object send(std::span<std::byte> data, int peer, int wire_tag);
  [[nodiscard]] pybind11::object receive(std::span<std::byte> data, int peer, int wire_tag);

  /// torch's own words in what one of the methods above threw, without the traceback.
  /// Errors: std::bad_alloc where that was Python's MemoryError.
  [[nodiscard]] static std::string text_of(const pybind11::error_already_set& error);

  /// Waits for one Work. Returns torch's first line of error text, empty when it ended well.
  /// Errors: std::bad_alloc; the Work may not have ended then, and can be waited for again.
  [[nodiscard]] std::string wait(const pybind11::object& work, std::chrono::milliseconds timeout);

  /// Ends every operation of the group, here and at its peers, by closing all its connections.
  /// Where memory is short, what it cannot close is left to the deadlines.
  void sever() noexcept;

 private:
  [[nodiscard]] bool close_connection(int peer) noexcept;
  [[nodiscard]] pybind11::object as_tensor(std::span<std::byte> data) const;

  pybind11::object group_;
  pybind11::object frombuffer_;
  pybind11::object uint8_;
  pybind11::object empty_;  ///< a tensor of no bytes
  pybind11::object timedelta_;
  int rank_ = 0;
  int size_ = 0;
};

/// What this torch offers of the things that the c10d transport stands on, by name; all false when
/// torch cannot be imported. Needs the GIL.
[[nodiscard]] std::map<std::string, bool> probe_c10d();

}  // namespace dynatrain
