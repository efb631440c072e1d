#include "dynatrain/base/log.hpp"

#include <memory>
#include <mutex>
#include <utility>

namespace dynatrain {
namespace {

struct SinkSlot {
  std::mutex slot_mutex;  ///< guards `sink`, held for an instant
  std::mutex call_mutex;  ///< held while the sink runs: one call at a time
  std::shared_ptr<const LogSink> sink;
};

SinkSlot& sink_slot() {
  static SinkSlot slot;
  return slot;
}

thread_local bool is_inside_sink = false;

}  // namespace

LogSink set_log_sink(LogSink sink) {
  auto next = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
  SinkSlot& slot = sink_slot();
  const std::lock_guard lock(slot.slot_mutex);
  std::swap(slot.sink, next);
  return next == nullptr ? LogSink{} : *next;
}

void log(LogLevel level, std::string_view room, std::string_view text) noexcept {
  // A sink that logs would wait for itself; its own lines are dropped.
  if (is_inside_sink) {
    return;
  }
  try {
    SinkSlot& slot = sink_slot();
    std::shared_ptr<const LogSink> sink;
    {
      const std::lock_guard lock(slot.slot_mutex);
      sink = slot.sink;
    }
    if (sink == nullptr) {
      return;
    }
    const std::lock_guard lock(slot.call_mutex);
    is_inside_sink = true;
    (*sink)(level, room, text);
    is_inside_sink = false;
  } catch (...) {
    is_inside_sink = false;  // a line that cannot be written must not stop a switch
  }
}

}  // namespace dynatrain
