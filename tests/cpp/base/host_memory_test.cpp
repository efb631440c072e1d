#include "dynatrain/base/host_memory.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

namespace dynatrain {
namespace {

/// Files of a system, in a folder.
class HostMemory : public ::testing::Test {
 protected:
  // Each test is a process of its own, and several run at a time.
  HostMemory() : root_(::testing::TempDir() + "host_memory_" + std::to_string(getpid())) {
    std::filesystem::remove_all(root_);
    write("/proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\n");
  }
  ~HostMemory() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file(root_ + path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  /// A group that has `most` bytes at most, `taken` taken, and `cached` of these for files.
  void second(const std::string& group, const std::string& most, int taken, int cached = 0) const {
    const std::string folder = "/sys/fs/cgroup" + group;
    write(folder + "/memory.max", most);
    write(folder + "/memory.current", std::to_string(taken));
    write(folder + "/memory.stat", "anon 5\ninactive_file " + std::to_string(cached) + "\n");
  }
  void first(const std::string& group, const std::string& most, int taken, int cached = 0) const {
    const std::string folder = "/sys/fs/cgroup/memory" + group;
    write(folder + "/memory.limit_in_bytes", most);
    write(folder + "/memory.usage_in_bytes", std::to_string(taken));
    write(folder + "/memory.stat",
          "inactive_file 1\ntotal_inactive_file " + std::to_string(cached) + "\n");
  }
  [[nodiscard]] std::int64_t left() const { return available_host_bytes(root_); }

 private:
  std::string root_;
};

TEST_F(HostMemory, WithoutGroupsIsWhatTheMachineHas) {
  EXPECT_EQ(left(), 4000 * 1024);
}

// A container's own group is the outermost one that it sees.
TEST_F(HostMemory, IsWhatTheOutermostGroupHasLeft) {
  second("", "3000", 1000);
  EXPECT_EQ(left(), 2000);
}

// A process of a service or a job lies in groups within groups: each of them may be the one that
// kills.
TEST_F(HostMemory, IsTheLeastOfAllGroupsAroundTheProcess) {
  write("/proc/self/cgroup", "0::/slurm/job_7/step_0\n");
  second("/slurm", "9000", 100);
  second("/slurm/job_7", "5000", 4000);
  second("/slurm/job_7/step_0", "max", 4000);
  second("/slurm/other", "10", 10);
  EXPECT_EQ(left(), 1000);
}

TEST_F(HostMemory, KnowsTheFirstVersionOfGroups) {
  write("/proc/self/cgroup", "9:name=systemd:/\n8:cpu,memory:/docker/1\n7:cpuset:/x\n0::/\n");
  first("", "9223372036854771712", 1 << 20);
  first("/docker/1", "7000", 5000);
  EXPECT_EQ(left(), 2000);
}

// After a checkpoint is read, its pages fill a group up to its limit, and go when they are wanted.
TEST_F(HostMemory, CountsWhatIsCachedOfFilesAsLeft) {
  write("/proc/self/cgroup", "0::/job\n");
  second("/job", "5000", 5000, 3500);
  EXPECT_EQ(left(), 3500);
}

TEST_F(HostMemory, OfAGroupOverItsLimitIsNothing) {
  second("", "3000", 4000);
  EXPECT_EQ(left(), 0);
}

TEST_F(HostMemory, LinesThatAreNoGroupsAreNothing) {
  write("/proc/self/cgroup", "\n::\nmemory\n1:memory\n0::relative\n0::\n");
  EXPECT_EQ(left(), 4000 * 1024);
}

TEST(AddressSpace, IsLimitedWhereTheProcessIs) {
  rlimit usual{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &usual), 0);
  if (usual.rlim_cur != RLIM_INFINITY) {
    GTEST_SKIP() << "the address space of this process is limited already";
  }
  EXPECT_EQ(available_address_bytes(), std::numeric_limits<std::int64_t>::max());
  const rlimit limited{.rlim_cur = rlim_t{1} << 50U, .rlim_max = usual.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limited), 0);
  const std::int64_t left = available_address_bytes();
  ASSERT_EQ(setrlimit(RLIMIT_AS, &usual), 0);
  EXPECT_GT(left, 0);
  EXPECT_LT(left, std::int64_t{1} << 50U);
}

}  // namespace
}  // namespace dynatrain
