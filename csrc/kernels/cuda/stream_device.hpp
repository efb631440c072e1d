#pragma once

#include "dynatrain/execution/copier.hpp"

#include "kernels/cuda/box_table_builder.hpp"
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace dynatrain {

// What a StreamCopier needs of a device. The CUDA runtime is behind it in cuda_device.cu, and
// threads with the kernel's body on the host in tests. All errors are DeviceErrors.

/// A place on a stream; used again and again, and recorded before anything else is asked.
class DeviceEvent {
 public:
  DeviceEvent() = default;
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;
  virtual ~DeviceEvent() = default;
  virtual void record(void* stream) = 0;
  [[nodiscard]] virtual bool has_passed() const = 0;
  /// Makes what is put on `stream` from now on wait for it.
  virtual void hold(void* stream) const = 0;
  /// When it passed, by the host's clock; only once has_passed().
  [[nodiscard]] virtual std::chrono::steady_clock::time_point when() const = 0;
};

/// Memory for a table: pinned on the host, and as much on the device.
class TableMemory {
 public:
  TableMemory() = default;
  TableMemory(const TableMemory&) = delete;
  TableMemory& operator=(const TableMemory&) = delete;
  virtual ~TableMemory() = default;
  [[nodiscard]] virtual std::byte* host() const = 0;
  [[nodiscard]] virtual std::byte* device() const = 0;
  [[nodiscard]] virtual std::int64_t size_bytes() const = 0;
};

/// One launch: zero ranges, upload the table (of one that is there already, zero its own sums), run
/// the kernel, fetch the table's own sums unless `sums` is memory of the device that the kernel
/// adds to, and read back. No table when `memory` is null.
struct TableLaunch {
  std::span<const std::span<std::byte>> zeroed;
  std::span<const ReadBack> read_back;
  const TableSize* size = nullptr;
  const TableMemory* memory = nullptr;
  bool is_uploaded = false;
  std::uint64_t* sums = nullptr;
  void* stream = nullptr;
};

class StreamDevice {
 public:
  StreamDevice() = default;
  StreamDevice(const StreamDevice&) = delete;
  StreamDevice& operator=(const StreamDevice&) = delete;
  virtual ~StreamDevice() = default;
  [[nodiscard]] virtual int num_processors() const = 0;
  [[nodiscard]] virtual std::size_t num_streams() const = 0;
  [[nodiscard]] virtual void* stream(std::size_t index) const = 0;
  [[nodiscard]] virtual std::unique_ptr<DeviceEvent> make_event() = 0;
  [[nodiscard]] virtual std::unique_ptr<TableMemory> make_table_memory(std::int64_t size_bytes) = 0;
  /// Brings the first `size_bytes` of the host's side to the device's; waits for it.
  virtual void upload(const TableMemory& memory, std::int64_t size_bytes) = 0;
  [[nodiscard]] virtual std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes,
                                                               Place place) = 0;
  /// True when the kernel itself can add to the memory behind `sums`, and does so in stream order.
  [[nodiscard]] virtual bool adds_to(const std::uint64_t* sums) const = 0;
  virtual void launch(const TableLaunch& launch) = 0;
};

}  // namespace dynatrain
