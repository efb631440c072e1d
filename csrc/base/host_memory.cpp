#include "dynatrain/base/host_memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>
#include <sys/resource.h>
#include <unistd.h>

namespace dynatrain {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

/// The number in a file that follows a word; the first one for no word.
std::optional<std::int64_t> number_in(const std::string& path, const std::string& after) {
  std::ifstream file(path);
  std::string word;
  std::int64_t number = 0;
  while (!after.empty() && file >> word && word != after) {
  }
  return file >> number ? std::optional(number) : std::nullopt;
}

/// How a version of control groups says what a group may take, and has taken.
struct Words {
  const char* most;
  const char* taken;
  const char* cached;  ///< in memory.stat
};

constexpr Words kSecond{"/memory.max", "/memory.current", "inactive_file"};
constexpr Words kFirst{"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"};

std::int64_t left_of(const std::string& group, const Words& words) {
  const auto most = number_in(group + words.most, "");  // none where it says "max"
  const auto taken = number_in(group + words.taken, "");
  if (!most.has_value() || !taken.has_value()) {
    return kNoLimit;
  }
  const std::int64_t cached = number_in(group + "/memory.stat", words.cached).value_or(0);
  return std::max<std::int64_t>(0, *most - std::max<std::int64_t>(0, *taken - cached));
}

/// The least that a group and those around it have left. A container sees its own group as the
/// outermost one: what is not there has no limit.
std::int64_t left_within(const std::string& mounted, std::string path, const Words& words) {
  std::int64_t left = left_of(mounted, words);
  while (path.size() > 1) {
    left = std::min(left, left_of(mounted + path, words));
    path.resize(path.rfind('/'));
  }
  return left;
}

bool has_memory(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == "memory") {
      return true;
    }
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

/// Of the groups around this process, each of which is a line "number:controllers:path".
std::int64_t left_of_groups(const std::string& root) {
  const std::string mounted = root + "/sys/fs/cgroup";
  std::int64_t left = left_of(mounted, kSecond);
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || line.compare(second + 1, 1, "/") != 0) {
      continue;
    }
    const std::string path = line.substr(second + 1);
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) {
      left = std::min(left, left_within(mounted, path, kSecond));
    } else if (has_memory(controllers)) {
      left = std::min(left, left_within(mounted + "/memory", path, kFirst));
    }
  }
  return left;
}

}  // namespace

std::int64_t available_host_bytes(const std::string& root) {
  std::int64_t left = left_of_groups(root);
  if (const auto left_kib = number_in(root + "/proc/meminfo", "MemAvailable:")) {
    left = std::min(left, *left_kib * 1024);
  }
  return left;
}

std::int64_t available_address_bytes() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      limit.rlim_cur > static_cast<rlim_t>(kNoLimit)) {
    return kNoLimit;
  }
  const std::int64_t pages = number_in("/proc/self/statm", "").value_or(0);
  const std::int64_t mapped = pages * sysconf(_SC_PAGESIZE);
  return std::max<std::int64_t>(0, static_cast<std::int64_t>(limit.rlim_cur) - mapped);
}

}  // namespace dynatrain
