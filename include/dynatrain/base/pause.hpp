#pragma once

#include <chrono>
#include <thread>

namespace dynatrain {

/// Pauses between two looks at something that no thread can be woken by: short at first, as most
/// waits are, then long enough to cost no core.
class Pause {
 public:
  void operator()() {
    if (num_looks_ < kNumShort) {
      ++num_looks_;
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

 private:
  static constexpr int kNumShort = 100;
  int num_looks_ = 0;
};

}  // namespace dynatrain
