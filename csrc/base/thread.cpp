#include "dynatrain/base/thread.hpp"

#include "dynatrain/base/error.hpp"

#include <csignal>
#include <string>
#include <system_error>
#include <utility>

namespace dynatrain {

std::thread start_thread(const char* purpose, std::function<void()> work) {
  sigset_t all;
  sigset_t former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  try {
    std::thread thread(std::move(work));
    pthread_sigmask(SIG_SETMASK, &former, nullptr);
    return thread;
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &former, nullptr);
    throw DeviceError("base: the system gives no thread that " + std::string(purpose) + ": " +
                      error.what() +
                      "\n  expected one more thread in this process\n  nothing was started by "
                      "this call; no state has changed\n  raise the limits on processes, threads "
                      "and memory (ulimit -u, ulimit -v), or ask for fewer threads (num_threads)");
  }
}

}  // namespace dynatrain
