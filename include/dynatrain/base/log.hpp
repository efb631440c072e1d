#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace dynatrain {

enum class LogLevel : std::uint8_t { kDebug = 10, kInfo = 20, kWarning = 30 };

/// Receives every log line: level, room ("plan", "execution", ...), text without newline.
/// Threads: called from any thread, one call at a time.
using LogSink = std::function<void(LogLevel, std::string_view room, std::string_view text)>;

/// Installs `sink` for the process and returns the former one; an empty sink means silence
/// (default).
LogSink set_log_sink(LogSink sink);

/// Sends one line to the sink; silent without one. Never throws.
void log(LogLevel level, std::string_view room, std::string_view text) noexcept;

}  // namespace dynatrain
