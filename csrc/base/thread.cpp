#include "dynatrain/base/thread.hpp"

#include "dynatrain/base/error.hpp"

#include <csignal>
#include <string>
#include <system_error>
#include <utility>

namespace dynatrain {

namespace {

/// Blocks the process's signals in the calling thread while it lives; a thread that is made then
/// inherits that. What a thread does to itself, such as reading where nothing is, stays open.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) {
      sigdelset(&blocked, own);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &former_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &former_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t former_{};
};

}  // namespace

std::thread start_thread(const char* purpose, std::function<void()> work) {
  const SignalsBlocked blocked;
  try {
    return std::thread(std::move(work));
  } catch (const std::system_error& error) {
    throw DeviceError("base: the system gives no thread that " + std::string(purpose) + ": " +
                      error.what() +
                      "\n  expected one more thread in this process\n  nothing was started by "
                      "this call; no state has changed\n  raise the limits on processes, threads "
                      "and memory (ulimit -u, ulimit -v), or ask for fewer threads (num_threads)");
  }
}

}  // namespace dynatrain
