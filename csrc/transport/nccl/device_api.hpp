#pragma once

#include "dynatrain/base/token.hpp"

#include <cstddef>
#include <cstdint>

namespace dynatrain {

/// The few calls of a device runtime that the transport makes. Streams and events are opaque.
/// Errors   every call throws DeviceError when the runtime refuses.
class DeviceApi {
 public:
  virtual ~DeviceApi() = default;
  /// Makes `device` the calling thread's current one and returns the former; -1 when the thread had
  /// none, as setting one back would make a context on a device that nobody asked for.
  virtual int set_device(int device) = 0;
  [[nodiscard]] virtual void* create_stream() = 0;  ///< non-blocking
  virtual void destroy_stream(void* stream) = 0;
  [[nodiscard]] virtual void* create_event() = 0;  ///< without timing
  virtual void destroy_event(void* event) = 0;
  virtual void record(void* event, void* stream) = 0;
  [[nodiscard]] virtual bool is_done(void* event) = 0;
  virtual void stream_wait(void* stream, void* event) = 0;
  /// Zeroes device memory and waits for it, on a stream of its own. False at the deadline: the
  /// memory may be written still.
  [[nodiscard]] virtual bool zero(std::byte* memory,
                                  std::int64_t size_bytes,
                                  Deadline deadline) = 0;
  /// True for host memory that the device cannot reach.
  [[nodiscard]] virtual bool is_host_memory(const void* data) = 0;
};

/// Makes a device current for a scope.
class DeviceScope {
 public:
  DeviceScope(DeviceApi& api, int device) : api_(api), former_(api.set_device(device)) {}
  ~DeviceScope() {
    try {
      if (former_ >= 0) {
        api_.set_device(former_);
      }
    } catch (...) {  // NOLINT(bugprone-empty-catch): the next call on the device says it
    }
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  DeviceApi& api_;
  int former_;
};

}  // namespace dynatrain
