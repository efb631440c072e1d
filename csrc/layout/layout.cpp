#include "dynatrain/layout/layout.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"

#include "layout/axes.hpp"
#include <algorithm>
#include <limits>
#include <span>
#include <utility>

namespace dynatrain {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& why, const std::string& cure) {
  throw LayoutError("layout: " + what + "\n  " + why +
                    "\n  no layout was made, nothing changed\n  " + cure);
}

/// The mesh axes whose ranks ep and etp cut again.
constexpr std::array kExpertAxes{Axis::kDpShard, Axis::kCp, Axis::kTp};

bool spans_world(Axis axis) {
  return static_cast<int>(axis) < kNumMeshAxes;
}

void check_sizes(const LayoutSpec& spec) {
  for (const AxisField& axis : kAxes) {
    if (spec.*axis.size < 1) {
      refuse("cannot use " + std::string(axis.name) + "=" + std::to_string(spec.*axis.size),
             "the size of a parallel axis is at least 1",
             "leave the axis out to switch it off");
    }
  }
  std::int64_t world = 1;
  for (const AxisField& axis : std::span(kAxes).first(kNumMeshAxes)) {
    world *= spec.*axis.size;
    if (world > std::numeric_limits<int>::max()) {
      refuse("cannot use a world this large",
             "the product of the sizes up to " + std::string(axis.name) + " is over 2^31 - 1 ranks",
             "choose smaller sizes");
    }
  }
}

void check_experts(const LayoutSpec& spec) {
  if (spec.etp != 1 && spec.etp != spec.tp) {
    refuse("cannot use etp=" + std::to_string(spec.etp),
           "etp is 1 or equal to tp, which is " + std::to_string(spec.tp),
           "leave etp out, or set etp=" + std::to_string(spec.tp));
  }
  const std::int64_t expert_ranks = std::int64_t{1} * spec.dp_shard * spec.cp * spec.tp / spec.etp;
  if (expert_ranks % spec.ep != 0) {
    refuse("cannot use ep=" + std::to_string(spec.ep),
           "dp_shard * cp * tp / etp is " + std::to_string(expert_ranks) + ", which " +
               std::to_string(spec.ep) + " does not divide",
           "choose an ep that divides " + std::to_string(expert_ranks));
  }
}

void check_stages(const LayoutSpec& spec) {
  if (spec.vpp > 1 && spec.pp == 1) {
    refuse("cannot use vpp=" + std::to_string(spec.vpp),
           "virtual stages need a pipeline, and pp is 1",
           "leave vpp out, or set pp to 2 or more");
  }
  const std::int64_t num_stages = std::int64_t{1} * spec.pp * spec.vpp;
  if (num_stages > std::numeric_limits<int>::max()) {
    refuse("cannot use this many stages", "pp * vpp is over 2^31 - 1", "choose smaller sizes");
  }
  if (spec.stages.empty()) {
    return;
  }
  if (std::cmp_not_equal(spec.stages.size(), num_stages)) {
    refuse("cannot use " + std::to_string(spec.stages.size()) + " numbers in stages",
           "pp * vpp is " + std::to_string(num_stages) + ", one number of layers each",
           "give " + std::to_string(num_stages) + " numbers, or none for an even split");
  }
  if (std::ranges::min(spec.stages) < 1) {
    refuse("cannot use a stage of " + std::to_string(std::ranges::min(spec.stages)) + " layers",
           "every stage has at least 1 layer",
           "give a number >= 1 for every stage, or use fewer stages");
  }
}

void check_order(const LayoutSpec& spec) {
  auto sorted = spec.order;
  std::ranges::sort(sorted);
  for (int i = 0; i < kNumMeshAxes; ++i) {
    if (static_cast<int>(sorted[static_cast<std::size_t>(i)]) != i) {
      refuse("cannot use this order of axes",
             "order names each of pp, dp_replicate, dp_shard, cp, tp once",
             "leave order out for pp:dp_replicate:dp_shard:cp:tp");
    }
  }
}

/// The position of `rank`'s coordinates along `axes` (in the order of the layout) in a row-major
/// count over those axes.
int index_along(const Layout& layout, int rank, std::span<const Axis> axes) {
  int index = 0;
  for (const Axis axis : layout.spec().order) {
    if (std::ranges::find(axes, axis) != axes.end()) {
      index = index * layout.size(axis) + layout.coordinate(rank, axis);
    }
  }
  return index;
}

/// The ranks of the world that `keeps` accepts, ascending.
template <class Predicate>
std::vector<int> ranks_where(const Layout& layout, const Predicate& keeps) {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    if (keeps(rank)) {
      ranks.push_back(rank);
    }
  }
  return ranks;
}

void check_rank(const Layout& layout, int rank) {
  if (rank < 0 || rank >= layout.world_size()) {
    refuse("cannot place rank " + std::to_string(rank),
           layout.to_string() + " has ranks 0 to " + std::to_string(layout.world_size() - 1),
           "ask for a rank of this layout");
  }
}

}  // namespace

std::string_view axis_name(Axis axis) {
  return axis_field(axis).name;
}

Axis axis_from_name(std::string_view name) {
  if (name == "dp") {
    return Axis::kDpShard;
  }
  const auto* const found = std::ranges::find(kAxes, name, &AxisField::name);
  if (found == kAxes.end()) {
    refuse("there is no axis '" + std::string(name) + "'",
           "the axes are dp (short for dp_shard), dp_shard, dp_replicate, cp, tp, pp, ep, etp, vpp",
           "use one of them");
  }
  return static_cast<Axis>(found - kAxes.begin());
}

Layout::Layout(LayoutSpec spec) : spec_(std::move(spec)) {
  check_sizes(spec_);
  check_experts(spec_);
  check_stages(spec_);
  check_order(spec_);
}

int Layout::size(Axis axis) const {
  return spec_.*axis_field(axis).size;
}

int Layout::world_size() const {
  return spec_.dp_replicate * spec_.dp_shard * spec_.cp * spec_.tp * spec_.pp;
}

int Layout::coordinate(int rank, Axis axis) const {
  check_rank(*this, rank);
  if (!spans_world(axis)) {
    refuse("axis " + std::string(axis_name(axis)) + " has no coordinate of its own in the mesh",
           "ep and etp lie inside dp_shard, cp and tp; vpp lies inside a rank",
           "ask for the expert coordinate, or for the layers of a pipeline rank");
  }
  int rest = rank;
  for (auto it = spec_.order.rbegin(); *it != axis; ++it) {
    rest /= size(*it);
  }
  return rest % size(axis);
}

std::vector<int> Layout::group(int rank, const std::vector<Axis>& axes) const {
  check_rank(*this, rank);
  const auto varies = [&axes](Axis axis) { return std::ranges::find(axes, axis) != axes.end(); };
  if (varies(Axis::kVpp)) {
    refuse("axis vpp has no group", "virtual stages of one rank share that rank", "leave vpp out");
  }
  const bool asks_experts = varies(Axis::kEp) || varies(Axis::kEtp);
  const ExpertCoordinate own = expert_coordinate(rank);
  return ranks_where(*this, [&](int other) {
    for (const Axis axis : spec_.order) {
      const bool is_expert_axis = axis != Axis::kPp && axis != Axis::kDpReplicate;
      if (!varies(axis) && !(asks_experts && is_expert_axis) &&
          coordinate(other, axis) != coordinate(rank, axis)) {
        return false;
      }
    }
    const ExpertCoordinate place = expert_coordinate(other);
    return !asks_experts ||
           (place.efsdp == own.efsdp && (varies(Axis::kEp) || place.ep == own.ep) &&
            (varies(Axis::kEtp) || place.etp == own.etp));
  });
}

Layout::ExpertCoordinate Layout::expert_coordinate(int rank) const {
  check_rank(*this, rank);
  const bool tp_is_etp = spec_.etp > 1;
  const int etp = tp_is_etp ? coordinate(rank, Axis::kTp) : 0;
  const int rest = index_along(*this, rank, std::span(kExpertAxes).first(tp_is_etp ? 2 : 3));
  return {rest / spec_.ep, rest % spec_.ep, etp};
}

int Layout::efsdp_size() const {
  return spec_.dp_shard * spec_.cp * spec_.tp / (spec_.ep * spec_.etp);
}

std::vector<Layout::LayerRange> Layout::layers(int pp_rank, int num_layers) const {
  if (pp_rank < 0 || pp_rank >= spec_.pp) {
    refuse("there is no pipeline rank " + std::to_string(pp_rank),
           "pp is " + std::to_string(spec_.pp),
           "ask for a pipeline rank from 0 to " + std::to_string(spec_.pp - 1));
  }
  const int num_stages = spec_.pp * spec_.vpp;
  if (num_layers < num_stages) {
    refuse("cannot split " + std::to_string(num_layers) + " layers over " +
               std::to_string(num_stages) + " stages",
           "pp=" + std::to_string(spec_.pp) + " vpp=" + std::to_string(spec_.vpp) +
               " needs a layer for every stage",
           "choose pp * vpp <= " + std::to_string(num_layers));
  }
  std::vector<std::int64_t> bounds{0};
  for (int stage = 0; stage < num_stages; ++stage) {
    const bool is_larger = stage < num_layers % num_stages;
    const int even = num_layers / num_stages + static_cast<int>(is_larger);
    const int own = spec_.stages.empty() ? even : spec_.stages[static_cast<std::size_t>(stage)];
    bounds.push_back(bounds.back() + own);
  }
  if (bounds.back() != num_layers) {
    refuse("cannot split " + std::to_string(num_layers) + " layers as stages says",
           "its numbers add up to " + std::to_string(bounds.back()),
           "make them add up to the layers of the model");
  }
  std::vector<LayerRange> ranges;
  for (int v = 0; v < spec_.vpp; ++v) {
    const int stage = v * spec_.pp + pp_rank;
    const auto first = static_cast<std::size_t>(stage);
    ranges.push_back({static_cast<int>(bounds[first]), static_cast<int>(bounds[first + 1])});
  }
  return ranges;
}

std::uint64_t Layout::hash() const {
  Hasher hasher;
  for (const AxisField& axis : kAxes) {
    hasher.add(spec_.*axis.size);
  }
  for (const Axis axis : spec_.order) {
    hasher.add(static_cast<int>(axis));
  }
  for (const int stage : spec_.stages) {
    hasher.add(stage);
  }
  return hasher.digest();
}

}  // namespace dynatrain
