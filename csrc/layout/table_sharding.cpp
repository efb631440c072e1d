#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/hash.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include "layout/describe.hpp"
#include "layout/owned.hpp"
#include "layout/reach.hpp"
#include <algorithm>
#include <limits>
#include <utility>

namespace dynatrain {
namespace {

using Table = std::map<int, std::vector<Fragment>>;

std::vector<Box> boxes_of(const std::vector<Fragment>& fragments) {
  std::vector<Box> boxes;
  boxes.reserve(fragments.size());
  for (const Fragment& fragment : fragments) {
    boxes.push_back(fragment.box);
  }
  return boxes;
}

void add_dims(Hasher& hasher, const Dims& dims) {
  for (const std::int64_t value : dims.values()) {
    hasher.add(value);
  }
}

class TableSharding final : public Sharding {
 public:
  explicit TableSharding(Table table) : table_(std::move(table)), hash_(compute_hash()) {}

  [[nodiscard]] std::vector<Fragment> fragments(const Shape& /*shape*/, int rank) const override {
    const auto found = table_.find(rank);
    return found == table_.end() ? std::vector<Fragment>{} : found->second;
  }

  [[nodiscard]] std::vector<OwnedBox> owned_boxes(const Shape& /*shape*/) const override {
    std::vector<OwnedBox> owned;
    for (const auto& [rank, fragments] : table_) {
      for (const Fragment& fragment : fragments) {
        owned.push_back({fragment.box, {rank}});
      }
    }
    return group_by_box(std::move(owned));
  }

  [[nodiscard]] std::vector<int> ranks() const override {
    std::vector<int> ranks;
    ranks.reserve(table_.size());
    for (const auto& [rank, fragments] : table_) {
      ranks.push_back(rank);
    }
    return ranks;
  }

  [[nodiscard]] std::uint64_t hash() const override { return hash_; }

  [[nodiscard]] std::string misfit(const Shape& shape) const override {
    const Box whole = Box::whole(shape);
    for (const auto& [rank, fragments] : table_) {
      for (const Fragment& fragment : fragments) {
        if (fragment.box.rank() != shape.rank() || !contains(whole, fragment.box)) {
          return "rank " + std::to_string(rank) + " holds " + fragment.box.to_string() +
                 ", which is not inside shape " + shape.to_string();
        }
      }
    }
    return {};
  }

 private:
  [[nodiscard]] std::uint64_t compute_hash() const {
    Hasher hasher;
    hasher.add("table");
    for (const auto& [rank, fragments] : table_) {
      hasher.add(rank);
      hasher.add(fragments.size());
      for (const Fragment& fragment : fragments) {
        add_dims(hasher, fragment.box.begin);
        add_dims(hasher, fragment.box.end);
        add_dims(hasher, fragment.view.strides);
        hasher.add(fragment.view.offset_elems);
      }
    }
    return hasher.digest();
  }

  Table table_;
  std::uint64_t hash_ = 0;
};

/// No buffer has more elements: the largest have 16 bytes, and offsets in bytes fit 64 bits.
constexpr std::int64_t kMostElems = std::numeric_limits<std::int64_t>::max() / 16;

void check_row(int rank, const std::vector<Fragment>& fragments) {
  const std::string what = "cannot make a table for rank " + std::to_string(rank);
  for (const Fragment& fragment : fragments) {
    const std::string box = "fragment " + fragment.box.to_string();
    if (rank < 0) {
      refuse_map(what, "a rank is not negative", "number ranks from 0");
    }
    if (fragment.box.end.rank() != fragment.box.rank() ||
        fragment.view.strides.rank() != fragment.box.rank() ||
        fragment.box.rank() != fragments.front().box.rank()) {
      refuse_map(what,
                 box + " has strides " + fragment.view.strides.to_string() +
                     ": begin, end and strides differ in length, or from those of its neighbours",
                 "give all of them one number for each dimension of the tensor");
    }
    if (fragment.view.offset_elems < 0 ||
        std::ranges::any_of(fragment.view.strides.values(), [](auto s) { return s < 0; })) {
      refuse_map(what,
                 box + " has a negative offset or stride",
                 "describe views that walk forward through their buffer");
    }
    if (!fragment.box.empty() && !fits_a_buffer(fragment.box, fragment.view)) {
      refuse_map(what,
                 box + " at element " + std::to_string(fragment.view.offset_elems) +
                     " with strides " + fragment.view.strides.to_string() +
                     " reaches further than any buffer does",
                 "describe views of memory that is there, in elements; see whether all ranks have "
                 "the same version of dynatrain");
    }
  }
  if (const auto overlap = first_overlap(boxes_of(fragments))) {
    refuse_map(what,
               "it holds " + overlap->first.to_string() + " and " + overlap->second.to_string() +
                   ", which overlap",
               "list every element of a rank once");
  }
}

}  // namespace

bool fits_a_buffer(const Box& box, const View& view) {
  std::int64_t last = view.offset_elems;
  for (int d = 0; d < box.rank(); ++d) {
    std::int64_t size = 0;
    std::int64_t way = 0;
    if (__builtin_sub_overflow(box.end[d], box.begin[d], &size) ||
        __builtin_mul_overflow(size - 1, view.strides[d], &way) ||
        __builtin_add_overflow(last, way, &last)) {
      return false;
    }
  }
  return last < kMostElems;
}

std::vector<OwnedBox> group_by_box(std::vector<OwnedBox> owned) {
  std::ranges::sort(owned, {}, &OwnedBox::box);
  std::vector<OwnedBox> grouped;
  for (OwnedBox& next : owned) {
    if (grouped.empty() || grouped.back().box != next.box) {
      grouped.push_back(std::move(next));
    } else {
      std::vector<int>& ranks = grouped.back().ranks;
      ranks.insert(ranks.end(), next.ranks.begin(), next.ranks.end());
    }
  }
  for (OwnedBox& group : grouped) {
    std::ranges::sort(group.ranks);
  }
  return grouped;
}

std::shared_ptr<const Sharding> make_table_sharding(
    std::map<int, std::vector<Fragment>> fragments_of_rank) {
  for (auto& [rank, fragments] : fragments_of_rank) {
    check_row(rank, fragments);
    std::erase_if(fragments, [](const Fragment& fragment) { return fragment.box.empty(); });
    std::ranges::sort(fragments, {}, &Fragment::box);
  }
  return std::make_shared<TableSharding>(std::move(fragments_of_rank));
}

std::shared_ptr<const Sharding> make_flat_sharding(const Shape& shape,
                                                   std::span<const int> ranks,
                                                   std::span<const std::int64_t> bounds,
                                                   std::span<const std::int64_t> offsets_elems) {
  if (bounds.size() != ranks.size() + 1 || offsets_elems.size() != ranks.size()) {
    refuse_map("cannot cut a flat tensor of shape " + shape.to_string(),
               "there are " + std::to_string(ranks.size()) + " ranks, " +
                   std::to_string(bounds.size()) + " bounds and " +
                   std::to_string(offsets_elems.size()) + " offsets",
               "give one bound more than ranks, and one offset for each rank");
  }
  const Strides strides = row_major_strides(shape);
  Table table;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const auto [row, is_new] = table.try_emplace(ranks[i]);
    if (!is_new) {
      refuse_map("cannot cut a flat tensor of shape " + shape.to_string(),
                 "rank " + std::to_string(ranks[i]) + " is listed twice",
                 "list every rank once");
    }
    for (const Box& box : flat_range_to_boxes(shape, {bounds[i], bounds[i + 1]})) {
      View view{checked_add(offsets_elems[i], -bounds[i]), strides};
      for (int d = 0; d < shape.rank(); ++d) {
        view.offset_elems = checked_add(view.offset_elems, box.begin[d] * strides[d]);
      }
      row->second.push_back({box, view});
    }
  }
  return make_table_sharding(std::move(table));
}

}  // namespace dynatrain
