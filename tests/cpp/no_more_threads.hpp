#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <sys/resource.h>
#include <unistd.h>

// Sanitizers take address space as they like, open files to look at an object, and end the process
// where they get none.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DYNATRAIN_SKIP_UNDER_SANITIZERS() \
  GTEST_SKIP() << "a sanitizer does not run where space or files are short"
#else
#define DYNATRAIN_SKIP_UNDER_SANITIZERS() static_cast<void>(0)
#endif

namespace dynatrain {

/// Runs `work` while there is address space for a few more threads' stacks and no more. For a
/// process of its own (EXPECT_EXIT).
template <class Work>
void with_few_threads(Work work) {
  constexpr std::uint64_t kSpareBytes = 48U << 20U;
  std::uint64_t num_pages = 0;
  std::ifstream("/proc/self/statm") >> num_pages;
  rlimit former{};
  getrlimit(RLIMIT_AS, &former);
  const auto page_bytes = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const rlimit few{.rlim_cur = num_pages * page_bytes + kSpareBytes, .rlim_max = former.rlim_max};
  setrlimit(RLIMIT_AS, &few);
  work();
  setrlimit(RLIMIT_AS, &former);
}

}  // namespace dynatrain
