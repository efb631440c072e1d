#pragma once

#include "dynatrain/base/token.hpp"
#include "dynatrain/execution/copier.hpp"
#include "dynatrain/layout/packing.hpp"

#include "torch/state_table.hpp"
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// Host memory whose pages are there; its first write takes no longer than any later one.
class HostRun {
 public:
  /// Errors   std::bad_alloc.
  explicit HostRun(std::int64_t size_bytes);
  HostRun(const HostRun&) = delete;
  HostRun& operator=(const HostRun&) = delete;
  ~HostRun();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::int64_t size_bytes() const { return size_bytes_; }
  /// The sum of the bytes [begin, end), which depends on their order. Both are multiples of 8.
  /// Errors   LayoutError for a range outside of the run.
  [[nodiscard]] std::uint64_t sum(std::int64_t begin, std::int64_t end) const;
  /// Something may write into it for ever: it is never given back to the system.
  void give_up() noexcept { is_given_up_ = true; }

 private:
  bool is_given_up_ = false;
  std::byte* data_ = nullptr;
  std::int64_t size_bytes_ = 0;
};

/// The live tensors of a table as one run of bytes. Not owning: the tensors outlive every copy.
class PackedState {
 public:
  /// `rank` is this rank in the meshes of the table.
  /// Errors   LayoutError as make_packing(), and for a shard that is not dense.
  PackedState(const StateTable& table, int rank);

  [[nodiscard]] std::int64_t size_bytes() const { return packing_.size_bytes; }
  /// What the run holds, for join_packed().
  [[nodiscard]] std::string blob() const { return encode_descriptors(packing_.held); }
  /// Copies all tensors to `run`, from `begin_bytes` on, once `after` are done, and waits for it.
  /// Errors   LayoutError where the run is too short; TransportError at the deadline. A copy that
  ///          has not ended half a minute later keeps the run, which is given up.
  void copy(Copier& copier,
            HostRun& run,
            std::span<const Token> after,
            Deadline deadline,
            std::int64_t begin_bytes = 0) const;

 private:
  Packing packing_;
  std::vector<LiveMemory> memory_;
  std::vector<std::int64_t> elem_bytes_;
};

/// A buffer that has the runs of several ranks, and a copy of it on a device, if there is one.
struct PackedBuffer {
  std::byte* host = nullptr;
  std::byte* device = nullptr;
  std::int64_t size_bytes = 0;
};

/// What lies in a buffer, as a table: on the device where it has one, but for tensors of `on_host`.
/// Errors   LayoutError as join_packed().
[[nodiscard]] StateTable packed_table(std::span<const PackedShare> shares,
                                      const PackedBuffer& buffer,
                                      const std::set<std::string>& on_host);

}  // namespace dynatrain
