#include "schedule/last_reads_codec.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

namespace dynatrain {
namespace {

struct Run {
  std::int32_t number = 0;
  std::int32_t num_tensors = 0;
};

[[noreturn]] void refuse(const std::string& expected_and_got) {
  throw TransportError("schedule: a rank's last reads of its source cannot be used\n  " +
                           expected_and_got +
                           "\n  nothing was moved; the source state is intact\n"
                           "  see that all ranks run one version of dynatrain, then switch again",
                       -1,
                       -1,
                       true);
}

std::int64_t num_tensors_of(const std::vector<Run>& runs) {
  std::int64_t sum = 0;
  for (const Run& run : runs) {
    sum += run.num_tensors;
  }
  return sum;
}

std::vector<Run> runs_of(std::string_view encoded) {
  std::vector<Run> runs(encoded.size() / sizeof(Run));
  if (runs.size() * sizeof(Run) != encoded.size()) {
    refuse("expected runs of 8 bytes, got " + std::to_string(encoded.size()) + " bytes");
  }
  if (!runs.empty()) {  // an empty one may have no memory
    std::memcpy(runs.data(), encoded.data(), encoded.size());
  }
  if (std::ranges::any_of(runs, [](const Run& run) { return run.num_tensors < 1; }) ||
      num_tensors_of(runs) > std::numeric_limits<std::int32_t>::max()) {
    refuse("expected runs that are not empty, of fewer than 2^31 tensors together");
  }
  return runs;
}

void append(std::vector<Run>& runs, const Run& run) {
  if (!runs.empty() && runs.back().number == run.number) {
    runs.back().num_tensors += run.num_tensors;
  } else {
    runs.push_back(run);
  }
}

std::vector<Run> largest_of(const std::vector<Run>& left, const std::vector<Run>& right) {
  std::vector<Run> largest;
  std::size_t at_left = 0;
  std::size_t at_right = 0;
  std::int32_t used_of_left = 0;
  std::int32_t used_of_right = 0;
  while (at_left < left.size()) {
    const Run& one = left[at_left];
    const Run& other = right[at_right];
    const std::int32_t num =
        std::min(one.num_tensors - used_of_left, other.num_tensors - used_of_right);
    append(largest, {std::max(one.number, other.number), num});
    used_of_left += num;
    used_of_right += num;
    if (used_of_left == one.num_tensors) {
      used_of_left = 0;
      ++at_left;
    }
    if (used_of_right == other.num_tensors) {
      used_of_right = 0;
      ++at_right;
    }
  }
  return largest;
}

std::string bytes_of(const std::vector<Run>& runs) {
  std::string bytes(runs.size() * sizeof(Run), '\0');
  if (!runs.empty()) {
    std::memcpy(bytes.data(), runs.data(), bytes.size());
  }
  return bytes;
}

}  // namespace

std::string encode_last_reads(std::span<const int> last_reads) {
  std::vector<Run> runs;
  for (const int number : last_reads) {
    append(runs, {number, 1});
  }
  return bytes_of(runs);
}

std::string largest_last_reads(std::span<const std::string> encoded) {
  std::vector<Run> largest = runs_of(encoded.front());
  const std::int64_t num_tensors = num_tensors_of(largest);
  for (const std::string& each : encoded.subspan(1)) {
    const std::vector<Run> runs = runs_of(each);
    if (num_tensors_of(runs) != num_tensors) {
      refuse("expected those of " + std::to_string(num_tensors) + " tensors, got " +
             std::to_string(num_tensors_of(runs)));
    }
    largest = largest_of(largest, runs);
  }
  return bytes_of(largest);
}

std::vector<int> decode_last_reads(std::string_view encoded, std::size_t num_tensors) {
  const std::vector<Run> runs = runs_of(encoded);
  if (num_tensors_of(runs) != static_cast<std::int64_t>(num_tensors)) {
    refuse("expected those of " + std::to_string(num_tensors) + " tensors, got " +
           std::to_string(num_tensors_of(runs)));
  }
  std::vector<int> numbers;
  numbers.reserve(num_tensors);
  for (const Run& run : runs) {
    numbers.insert(numbers.end(), static_cast<std::size_t>(run.num_tensors), run.number);
  }
  return numbers;
}

}  // namespace dynatrain
