#include "dynatrain/plan/fan_out.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// The parts of `box` that are held.
std::vector<Box> shared(const Box& box, const std::vector<Fragment>& held) {
  std::vector<Box> parts;
  for (const Fragment& fragment : held) {
    if (const auto common = intersect(box, fragment.box)) {
      parts.push_back(*common);
    }
  }
  return parts;
}

/// Slice `number` of `count` along the first dimension that is long enough, else the longest one;
/// none where there are fewer elements than slices.
std::optional<Box> slice_of(const Box& box, std::size_t number, std::size_t count) {
  int dim = 0;
  for (int d = 0; d < box.rank(); ++d) {
    if (box.dim(d).size() >= static_cast<std::int64_t>(count)) {
      dim = d;
      break;
    }
    dim = box.dim(d).size() > box.dim(dim).size() ? d : dim;
  }
  const std::int64_t size = box.dim(dim).size();
  const auto cut = [&](std::size_t at) {
    return box.begin[dim] + size * static_cast<std::int64_t>(at) / static_cast<std::int64_t>(count);
  };
  Box slice = box;
  slice.begin[dim] = cut(number);
  slice.end[dim] = cut(number + 1);
  return slice.empty() ? std::nullopt : std::optional(slice);
}

class Scatter {
 public:
  Scatter(const ShardMap& source,
          const ShardMap& target,
          const DecisionRecord& record,
          SharedBy shared_by,
          std::int64_t least_slice_bytes)
      : source_(source),
        target_(target),
        record_(record),
        shared_by_(shared_by),
        least_slice_bytes_(least_slice_bytes) {}

  std::optional<FanOut> run() {
    std::vector<ShardMap::Entry> scattered;
    std::vector<ShardMap::Entry> given;
    std::vector<ShardMap::Entry> wanted;
    const std::shared_ptr<const Sharding> nothing = make_table_sharding({});
    bool is_handed_on = false;
    for (std::size_t i = 0; i < target_.num_tensors(); ++i) {
      const TensorId id(static_cast<std::int64_t>(i));
      const LogicalTensor& tensor = target_.tensor(id);
      const Cut& cut = cut_of(id);
      const bool is_cut = cut.scattered != nullptr;
      is_handed_on = is_handed_on || is_cut;
      scattered.push_back({tensor, is_cut ? cut.scattered : target_.shared_sharding(id)});
      given.push_back({tensor, is_cut ? cut.given : nothing});
      wanted.push_back({tensor, is_cut ? cut.wanted : nothing});
    }
    if (!is_handed_on) {
      return std::nullopt;
    }
    return FanOut{.scattered = ShardMap(std::move(scattered)),
                  .given = ShardMap(std::move(given)),
                  .wanted = ShardMap(std::move(wanted))};
  }

 private:
  /// The three maps' shardings of one tensor; null where nothing of it is handed on.
  struct Cut {
    std::shared_ptr<const Sharding> scattered;
    std::shared_ptr<const Sharding> given;
    std::shared_ptr<const Sharding> wanted;
  };
  using Fragments = std::map<int, std::vector<Fragment>>;
  using Slices = std::map<int, std::optional<Box>>;
  using Key = std::tuple<Shape, std::int64_t, std::uint64_t, std::uint64_t>;

  std::uint64_t hash_of(const Sharding& sharding) {
    const auto [entry, is_new] = hashes_.try_emplace(&sharding, 0);
    if (is_new) {
      entry->second = sharding.hash();
    }
    return entry->second;
  }

  const Cut& cut_of(TensorId id) {
    const LogicalTensor& tensor = target_.tensor(id);
    const auto [entry, is_new] = known_.try_emplace({tensor.shape,
                                                     tensor.dtype.size_bytes,
                                                     hash_of(source_.sharding(id)),
                                                     hash_of(target_.sharding(id))});
    if (is_new) {
      entry->second = cut(id);
    }
    return entry->second;
  }

  [[nodiscard]] Cut cut(TensorId id) const {
    const std::vector<OwnedBox> owned = source_.owned_boxes(id);
    const std::vector<OwnedBox> boxes = target_.owned_boxes(id);
    if (std::ranges::none_of(boxes, [&](const OwnedBox& needed) {
          return !handed_on(id, needed.box, needed.ranks, owned, 0).empty();
        })) {
      return {};  // most tensors: nobody is asked what it holds
    }
    Fragments held;  // of the ranks that need anything
    Fragments scattered;
    Fragments given;
    Fragments wanted;
    for (const OwnedBox& needed : boxes) {
      const Slices slices = slices_of(id, needed, owned, held);
      for (const int rank : needed.ranks) {
        const auto slice = slices.find(rank);
        if (slice == slices.end()) {
          add(id, rank, needed.box, {needed.box}, scattered[rank]);
          continue;
        }
        const std::vector<Box> had =
            had_behind_the_first_pass(needed.box, slice->second, held.at(rank));
        add(id, rank, needed.box, had, scattered[rank]);
        add(id, rank, needed.box, had, given[rank]);
        add(id, rank, needed.box, {needed.box}, wanted[rank]);
      }
    }
    if (wanted.empty()) {
      return {};
    }
    return {.scattered = make_table_sharding(std::move(scattered)),
            .given = make_table_sharding(std::move(given)),
            .wanted = make_table_sharding(std::move(wanted))};
  }

  /// What each rank that a box is handed on by gets in the first pass.
  [[nodiscard]] Slices slices_of(TensorId id,
                                 const OwnedBox& needed,
                                 const std::vector<OwnedBox>& owned,
                                 Fragments& held) const {
    Slices slices;
    const std::vector<int> lacking = lacking_of(id, needed, held);
    for (const std::vector<int>& ranks :
         handed_on(id, needed.box, lacking, owned, least_slice_bytes_)) {
      for (std::size_t number = 0; number < ranks.size(); ++number) {
        slices[ranks[number]] = slice_of(needed.box, number, ranks.size());
      }
    }
    return slices;
  }

  std::vector<int> lacking_of(TensorId id, const OwnedBox& needed, Fragments& held) const {
    std::vector<int> lacking;
    for (const int rank : needed.ranks) {
      const auto [place, is_new] = held.try_emplace(rank);
      if (is_new) {
        place->second = source_.fragments(id, rank);
      }
      if (!uncovered(needed.box, shared(needed.box, place->second)).empty()) {
        lacking.push_back(rank);
      }
    }
    return lacking;
  }

  /// The groups of ranks among which it pays to hand a box on that they lack.
  [[nodiscard]] std::vector<std::vector<int>> handed_on(TensorId id,
                                                        const Box& box,
                                                        const std::vector<int>& lacking,
                                                        const std::vector<OwnedBox>& owned,
                                                        std::int64_t least_slice_bytes) const {
    std::map<int, std::vector<int>> groups;
    for (const int rank : lacking) {
      groups[group_of(rank)].push_back(rank);
    }
    std::vector<std::vector<int>> found;
    for (auto& [group, ranks] : groups) {
      const auto num_ranks = static_cast<std::int64_t>(ranks.size());
      const std::int64_t size_bytes =
          checked_mul(box.num_elements(), target_.tensor(id).dtype.size_bytes);
      if (num_ranks >= 2 && size_bytes / num_ranks >= least_slice_bytes &&
          num_ranks >= 2 * fewest_copies(box, owned, group)) {
        found.push_back(std::move(ranks));
      }
    }
    return found;
  }

  /// Ranks of one group share slices among each other.
  [[nodiscard]] int group_of(int rank) const {
    return shared_by_ == SharedBy::kNode ? record_.node_of(rank) : 0;
  }

  /// Copies within a group of the elements of a box that has fewest.
  [[nodiscard]] std::int64_t fewest_copies(const Box& box,
                                           const std::vector<OwnedBox>& owned,
                                           int group) const {
    std::optional<std::int64_t> fewest;
    for (const OwnedBox& one : owned) {
      if (intersect(one.box, box).has_value()) {
        const std::int64_t copies =
            std::ranges::count_if(one.ranks, [&](int rank) { return group_of(rank) == group; });
        fewest = std::min(fewest.value_or(copies), copies);
      }
    }
    return fewest.value_or(0);
  }

  static std::vector<Box> had_behind_the_first_pass(const Box& box,
                                                    const std::optional<Box>& slice,
                                                    const std::vector<Fragment>& held) {
    std::vector<Box> boxes;
    if (slice.has_value()) {
      boxes.push_back(*slice);
    }
    for (const Box& part : shared(box, held)) {
      std::vector<Box> rest{part};
      if (slice.has_value()) {
        rest = subtract(part, *slice);
      }
      boxes.insert(boxes.end(), rest.begin(), rest.end());
    }
    return boxes;
  }

  /// Adds the parts of a target's box, where they lie in its memory.
  void add(TensorId id,
           int rank,
           const Box& box,
           const std::vector<Box>& parts,
           std::vector<Fragment>& fragments) const {
    for (const Fragment& fragment : target_.fragments(id, rank)) {
      if (fragment.box == box) {
        for (const Box& part : parts) {
          fragments.push_back({.box = part, .view = sub_view(box, fragment.view, part)});
        }
        return;
      }
    }
    DYNATRAIN_CHECK(false, "plan: rank " + std::to_string(rank) + " has no fragment of its box");
  }

  const ShardMap& source_;
  const ShardMap& target_;
  const DecisionRecord& record_;
  SharedBy shared_by_;
  std::int64_t least_slice_bytes_;
  std::map<Key, Cut> known_;
  std::unordered_map<const Sharding*, std::uint64_t> hashes_;
};

constexpr double kLeastGain = 1.25;

[[noreturn]] void throw_unfit_loads(const std::string& found) {
  throw LayoutError("plan: the ranks of a switch tell of " + found +
                    "\n  expected the same ways and passes of each of them, one way at least\n"
                    "  nothing was chosen\n  run the same build on every rank");
}

/// Keeps of each pass what its busiest rank carries.
void take_larger(const std::vector<std::int64_t>& passes, std::vector<std::int64_t>& busiest) {
  if (passes.size() != busiest.size()) {
    throw_unfit_loads(std::to_string(passes.size()) + " passes beside " +
                      std::to_string(busiest.size()));
  }
  std::ranges::transform(
      passes, busiest, busiest.begin(), [](std::int64_t one, std::int64_t other) {
        return std::max(one, other);
      });
}

}  // namespace

std::optional<FanOut> fan_out(const ShardMap& source,
                              const ShardMap& target,
                              const DecisionRecord& record,
                              SharedBy shared_by,
                              std::int64_t least_slice_bytes) {
  check_same_tensors(source, target);
  return Scatter(source, target, record, shared_by, least_slice_bytes).run();
}

Plan hand_on_plan(const FanOut& fan_out, int rank, const DecisionRecord& record) {
  Plan plan = make_plan(fan_out.given, fan_out.wanted, rank, record);
  plan.locals.clear();
  plan.adoptable.clear();
  for (std::size_t i = 0; i < fan_out.wanted.num_tensors(); ++i) {
    plan.adoptable.emplace_back(static_cast<std::int64_t>(i));
  }
  plan.traffic.kept_bytes = 0;
  plan.traffic.adoptable_bytes = 0;
  return plan;
}

std::size_t way_of_least_load(std::span<const LoadsOfWays> ranks) {
  if (ranks.empty() || ranks.front().empty()) {
    throw_unfit_loads("no way");
  }
  LoadsOfWays busiest = ranks.front();
  for (const LoadsOfWays& ways : ranks.subspan(1)) {
    if (ways.size() != busiest.size()) {
      throw_unfit_loads(std::to_string(ways.size()) + " ways beside " +
                        std::to_string(busiest.size()));
    }
    for (std::size_t way = 0; way < ways.size(); ++way) {
      take_larger(ways[way], busiest[way]);
    }
  }
  std::vector<std::int64_t> loads;
  for (const std::vector<std::int64_t>& passes : busiest) {
    loads.push_back(std::accumulate(passes.begin(), passes.end(), std::int64_t{0}, checked_add));
  }
  const auto least = std::ranges::min_element(loads);
  const bool pays = static_cast<double>(loads.front()) >= kLeastGain * static_cast<double>(*least);
  return pays ? static_cast<std::size_t>(least - loads.begin()) : 0;
}

}  // namespace dynatrain
