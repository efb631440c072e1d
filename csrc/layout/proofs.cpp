#include "dynatrain/base/checked.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include "layout/describe.hpp"
#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace dynatrain {
namespace {

bool same_strides(const Shape& shape, const Strides& a, const Strides& b) {
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] > 1 && a[d] != b[d]) {
      return false;
    }
  }
  return true;
}

std::string describe_local(const Shape& shape, const Strides& strides) {
  return "shape " + shape.to_string() + " strides " + strides.to_string();
}

[[noreturn]] void refuse_live(const LogicalTensor& tensor,
                              int rank,
                              const std::string& mapped,
                              const std::string& live) {
  refuse_map("the map does not describe '" + tensor.name + "' (" + describe(tensor) + ") on rank " +
                 std::to_string(rank),
             "map: " + mapped + "; live: " + live,
             "publish the placements, or the fragments, that the live tensor has");
}

/// The map gives extents: the live tensor has them, dense and row-major.
void prove_dense(const LogicalTensor& tensor,
                 int rank,
                 const Shape& expected,
                 const LiveTensor& live) {
  const Strides dense = row_major_strides(expected);
  if (live.local_shape != expected ||
      (num_elements(expected) > 0 && !same_strides(expected, dense, live.local_strides))) {
    refuse_live(tensor,
                rank,
                describe_local(expected, dense),
                describe_local(live.local_shape, live.local_strides));
  }
}

/// One past the furthest element of a fragment, counted from element 0 of its buffer.
std::int64_t reach_of(const Fragment& fragment) {
  const Shape shape = fragment.box.shape();
  std::int64_t last = fragment.view.offset_elems;
  for (int d = 0; d < shape.rank(); ++d) {
    last = checked_add(last, checked_mul(shape[d] - 1, fragment.view.strides[d]));
  }
  return checked_add(last, 1);
}

/// The map gives a list of fragments: the live tensor is the one fragment, or a 1-D buffer that all
/// of them lie in.
void prove_table(const LogicalTensor& tensor,
                 int rank,
                 std::span<const Fragment> fragments,
                 const LiveTensor& live) {
  const Fragment& first = fragments.front();
  const bool is_that_fragment =
      fragments.size() == 1 && first.view.offset_elems == 0 &&
      first.box.shape() == live.local_shape &&
      same_strides(live.local_shape, first.view.strides, live.local_strides);
  if (is_that_fragment) {
    return;
  }
  const bool is_buffer = live.local_shape.rank() == 1 && same_strides({2}, {1}, live.local_strides);
  for (const Fragment& fragment : fragments) {
    if (!is_buffer || reach_of(fragment) > live.local_shape[0]) {
      refuse_live(tensor,
                  rank,
                  "fragment " + fragment.box.to_string() + " up to element " +
                      std::to_string(reach_of(fragment)) + " of the buffer",
                  describe_local(live.local_shape, live.local_strides));
    }
  }
}

void prove_one(const ShardMap& map, int rank, const LiveTensor& live) {
  const LogicalTensor& tensor = map.tensor(live.id);
  if (live.local_shape.rank() != live.local_strides.rank()) {
    refuse_live(tensor,
                rank,
                "any tensor has a stride for each dimension",
                describe_local(live.local_shape, live.local_strides));
  }
  if (const auto expected = map.sharding(live.id).local_shape(tensor.shape, rank)) {
    prove_dense(tensor, rank, *expected, live);
    return;
  }
  const std::vector<Fragment> fragments = map.fragments(live.id, rank);
  if (!fragments.empty()) {
    prove_table(tensor, rank, fragments, live);
  } else if (num_elements(live.local_shape) > 0) {
    refuse_live(tensor, rank, "nothing", describe_local(live.local_shape, live.local_strides));
  }
}

/// The boxes of each rank, from the owners' side.
std::map<int, std::vector<Box>> boxes_by_rank(const std::vector<OwnedBox>& owned) {
  std::map<int, std::vector<Box>> boxes;
  for (const OwnedBox& item : owned) {
    for (const int rank : item.ranks) {
      boxes[rank].push_back(item.box);
    }
  }
  return boxes;
}

std::vector<Box> holes_in(const Shape& shape, const std::vector<OwnedBox>& owned) {
  std::vector<Box> boxes;
  boxes.reserve(owned.size());
  for (const OwnedBox& item : owned) {
    boxes.push_back(item.box);
  }
  return uncovered(Box::whole(shape), boxes);
}

void prove_coverage_of(const LogicalTensor& tensor, const std::vector<OwnedBox>& owned) {
  std::int64_t held_elems = 0;
  for (const OwnedBox& item : owned) {
    held_elems = checked_add(held_elems, item.box.num_elements());
  }
  if (const auto holes = holes_in(tensor.shape, owned); !holes.empty()) {
    refuse_map("no rank holds " + holes.front().to_string() + " of '" + tensor.name + "' (" +
                   describe(tensor) + ")",
               std::to_string(holes.size()) + " boxes of it have no owner",
               "let every element be published by the rank that holds it");
  }
  if (held_elems == num_elements(tensor.shape)) {
    return;  // without a hole and not an element too many: the boxes are apart
  }
  for (const auto& [rank, own] : boxes_by_rank(owned)) {
    if (const auto overlap = first_overlap(own)) {
      refuse_map("rank " + std::to_string(rank) + " holds " + overlap->first.to_string() + " and " +
                     overlap->second.to_string() + " of '" + tensor.name + "' (" +
                     describe(tensor) + ")",
                 "the two overlap, so it would hold some elements twice",
                 "publish every element of a rank once");
    }
  }
}

}  // namespace

void prove_live(const ShardMap& map, int rank, std::span<const LiveTensor> live) {
  std::vector<bool> is_live(map.num_tensors(), false);
  for (const LiveTensor& tensor : live) {
    prove_one(map, rank, tensor);
    if (is_live[tensor.id.index()]) {
      refuse_live(map.tensor(tensor.id), rank, "one tensor", "two tensors of that name");
    }
    is_live[tensor.id.index()] = true;
  }
  for (std::size_t i = 0; i < is_live.size(); ++i) {
    const TensorId id{static_cast<std::int64_t>(i)};
    if (is_live[i]) {
      continue;
    }
    if (const auto fragments = map.fragments(id, rank); !fragments.empty()) {
      refuse_live(map.tensor(id), rank, fragments.front().box.to_string(), "no such tensor");
    }
  }
}

void prove_coverage(const ShardMap& map) {
  std::set<std::pair<Shape, const Sharding*>> proven;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id{static_cast<std::int64_t>(i)};
    if (proven.insert({map.tensor(id).shape, &map.sharding(id)}).second) {
      prove_coverage_of(map.tensor(id), map.owned_boxes(id));
    }
  }
}

std::vector<Hole> holes_of(const ShardMap& map) {
  std::vector<Hole> holes;
  std::map<std::pair<Shape, const Sharding*>, std::vector<Box>> known;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id{static_cast<std::int64_t>(i)};
    const Shape& shape = map.tensor(id).shape;
    const auto [at, is_new] = known.try_emplace({shape, &map.sharding(id)});
    if (is_new) {
      at->second = holes_in(shape, map.owned_boxes(id));
    }
    if (!at->second.empty()) {
      holes.push_back({id, at->second});
    }
  }
  return holes;
}

}  // namespace dynatrain
