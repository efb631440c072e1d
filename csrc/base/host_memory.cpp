#include "dynatrain/base/host_memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace dynatrain {
namespace {

/// The number in a file that follows a word; the first one for no word.
std::optional<std::int64_t> number_in(const std::string& path, const std::string& after) {
  std::ifstream file(path);
  std::string word;
  std::int64_t number = 0;
  while (!after.empty() && file >> word && word != after) {
  }
  return file >> number ? std::optional(number) : std::nullopt;
}

}  // namespace

std::int64_t available_host_bytes() {
  const std::string group = "/sys/fs/cgroup/memory.";
  std::int64_t left = std::numeric_limits<std::int64_t>::max();
  if (const auto left_kib = number_in("/proc/meminfo", "MemAvailable:")) {
    left = *left_kib * 1024;
  }
  const auto most = number_in(group + "max", "");  // none where it says "max"
  const auto taken = number_in(group + "current", "");
  if (most.has_value() && taken.has_value()) {
    left = std::min(left, *most - *taken);
  }
  return left;
}

}  // namespace dynatrain
