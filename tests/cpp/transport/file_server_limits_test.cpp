// A server of files where the system gives no descriptor more.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "no_more_threads.hpp"
#include "transport/lent_files.hpp"
#include "transport/peer_memory/file_server.hpp"
#include <chrono>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// Lets this process open fewer files, for a while.
class FewerFiles {
 public:
  explicit FewerFiles(rlim_t most) {
    getrlimit(RLIMIT_NOFILE, &usual_);
    const rlimit fewer{.rlim_cur = most, .rlim_max = usual_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &fewer);
  }
  FewerFiles(const FewerFiles&) = delete;
  FewerFiles& operator=(const FewerFiles&) = delete;
  ~FewerFiles() { setrlimit(RLIMIT_NOFILE, &usual_); }

 private:
  rlimit usual_{};
};

// The system would have the reader wait until its deadline, and name nobody.
TEST(FileServer, WhereNothingMoreCanBeOpenedTheReaderIsTold) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  FileServer server(std::chrono::seconds(5));
  const std::uint64_t file = server.offer([] { return lent_file("x"); });
  std::vector<OwnedFile> taken;
  {
    const FewerFiles limited(64);
    while (true) {
      OwnedFile one(memfd_create("taken", MFD_CLOEXEC));
      if (!one.is_open()) {
        break;
      }
      taken.push_back(std::move(one));
    }
    taken.pop_back();  // for the reader's socket
    FileFetcher fetcher(server.name(), 1, late());
    try {
      static_cast<void>(fetcher.fetch(file));
      FAIL() << "the file arrived";
    } catch (const DeviceError& error) {
      EXPECT_NE(std::string(error.what()).find("ulimit -n"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("rank 1"), std::string::npos) << error.what();
    }
  }
  taken.clear();
  EXPECT_EQ(fetched_text(server.name(), file), "x");
}

}  // namespace
}  // namespace dynatrain
