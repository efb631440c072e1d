#include "dynatrain/base/error.hpp"
#include "dynatrain/plan/plan.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {
namespace {

constexpr std::size_t kMaxNames = 8;
/// Hints are for people: past this many candidates the search costs more than it helps.
constexpr std::size_t kMaxHintCandidates = 512;

/// How two maps disagree, by name.
struct Differences {
  std::vector<std::string> missing;  ///< in the source only
  std::vector<std::string> extra;    ///< in the target only
  std::vector<std::string> changed;  ///< in both; one line each

  [[nodiscard]] bool none() const { return missing.empty() && extra.empty() && changed.empty(); }
};

std::string type_of(const LogicalTensor& tensor) {
  return tensor.dtype.name + tensor.shape.to_string();
}

/// The tensor at `index`, or null past the end.
const LogicalTensor* tensor_at(const ShardMap& map, std::int64_t index) {
  return index < static_cast<std::int64_t>(map.num_tensors()) ? &map.tensor(TensorId(index))
                                                              : nullptr;
}

/// Both maps are ordered by name, so one walk over both finds every difference.
Differences compare(const ShardMap& source, const ShardMap& target) {
  Differences found;
  std::int64_t s = 0;
  std::int64_t t = 0;
  while (tensor_at(source, s) != nullptr || tensor_at(target, t) != nullptr) {
    const LogicalTensor* ours = tensor_at(source, s);
    const LogicalTensor* theirs = tensor_at(target, t);
    if (theirs == nullptr || (ours != nullptr && ours->name < theirs->name)) {
      found.missing.push_back(ours->name);
      ++s;
    } else if (ours == nullptr || theirs->name < ours->name) {
      found.extra.push_back(theirs->name);
      ++t;
    } else {
      if (*ours != *theirs) {
        found.changed.push_back("'" + ours->name + "' is " + type_of(*ours) + " in the source, " +
                                type_of(*theirs) + " in the target");
      }
      ++s;
      ++t;
    }
  }
  return found;
}

/// Levenshtein's distance: the fewest letters to insert, delete or replace.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + static_cast<std::size_t>(a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

/// The candidate that is likely to be meant, or nothing when all are too far away.
std::string_view nearest(std::string_view name, const std::vector<std::string>& candidates) {
  std::string_view best;
  std::size_t best_distance = std::numeric_limits<std::size_t>::max();
  for (std::size_t i = 0; i < std::min(candidates.size(), kMaxHintCandidates); ++i) {
    const std::size_t distance = edit_distance(name, candidates[i]);
    if (distance < best_distance) {
      best = candidates[i];
      best_distance = distance;
    }
  }
  return best_distance <= std::max<std::size_t>(3, name.size() / 2) ? best : std::string_view{};
}

std::string list_names(std::string_view title,
                       const std::vector<std::string>& names,
                       const std::vector<std::string>& hints) {
  if (names.empty()) {
    return "";
  }
  std::string text = "\n  " + std::string(title) + " (" + std::to_string(names.size()) + "):";
  for (std::size_t i = 0; i < std::min(names.size(), kMaxNames); ++i) {
    text += "\n    '" + names[i] + "'";
    if (const std::string_view hint = nearest(names[i], hints); !hint.empty()) {
      text += " (nearest: '" + std::string(hint) + "')";
    }
  }
  return names.size() > kMaxNames ? text + "\n    ..." : text;
}

std::string list_changed(const std::vector<std::string>& lines) {
  if (lines.empty()) {
    return "";
  }
  std::string text = "\n  of another shape or type (" + std::to_string(lines.size()) + "):";
  for (std::size_t i = 0; i < std::min(lines.size(), kMaxNames); ++i) {
    text += "\n    " + lines[i];
  }
  return lines.size() > kMaxNames ? text + "\n    ..." : text;
}

}  // namespace

void check_same_tensors(const ShardMap& source, const ShardMap& target) {
  const Differences found = compare(source, target);
  if (found.none()) {
    return;
  }
  throw LayoutError(
      "plan: source and target do not describe the same tensors (" +
      std::to_string(source.num_tensors()) + " and " + std::to_string(target.num_tensors()) + ")" +
      list_names("missing in the target", found.missing, found.extra) +
      list_names("only in the target", found.extra, found.missing) + list_changed(found.changed) +
      "\n  nothing was moved; the source state is intact\n" +
      "  build the same model in both layouts, or give a map of old to new names");
}

}  // namespace dynatrain
