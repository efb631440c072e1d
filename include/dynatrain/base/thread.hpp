#pragma once

#include <functional>
#include <thread>

namespace dynatrain {

/// Starts a thread of the library. The process's signals go to its other threads: a handler of the
/// program then interrupts what the program itself waits in.
/// Errors: DeviceError that names `purpose`, when the system gives no thread; nothing was started.
[[nodiscard]] std::thread start_thread(const char* purpose, std::function<void()> work);

}  // namespace dynatrain
