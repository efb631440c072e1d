#include "dynatrain/layout/packing.hpp"

#include "dynatrain/base/checked.hpp"

#include "layout/blob.hpp"
#include "layout/describe.hpp"
#include "layout/reach.hpp"
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

using SharedSharding = std::shared_ptr<const Sharding>;

/// What the ranks of a cut hold; neighbours mostly share one.
class KnownShardings {
 public:
  const Sharding& of(const Descriptor& cut) {
    const auto found = std::find_if(known_.rbegin(), known_.rend(), [&](const auto& each) {
      return each.first->placements == cut.placements && each.first->mesh == cut.mesh;
    });
    if (found != known_.rend()) {
      return *found->second;
    }
    known_.emplace_back(&cut, make_compact_sharding(cut.mesh, cut.placements));
    return *known_.back().second;
  }

 private:
  std::vector<std::pair<const Descriptor*, SharedSharding>> known_;
};

std::vector<Fragment> live_fragments(const Descriptor& descriptor,
                                     int rank,
                                     KnownShardings& shardings) {
  const Shape& shape = descriptor.tensor.shape;
  if (!descriptor.mesh.ranks.empty()) {
    return shardings.of(descriptor).fragments(shape, rank);
  }
  if (!descriptor.fragments.empty()) {
    return descriptor.fragments;
  }
  return {{Box::whole(shape), View{0, row_major_strides(shape)}}};
}

void check_itemsize(const LogicalTensor& tensor) {
  const std::int64_t itemsize = tensor.dtype.size_bytes;
  if (itemsize < 1 || kPackedAlignment % itemsize != 0) {
    refuse_map("cannot pack '" + tensor.name + "' (" + describe(tensor) + ")",
               "its elements have " + std::to_string(itemsize) +
                   " bytes, which do not divide the alignment of a run, " +
                   std::to_string(kPackedAlignment),
               "keep it in elements of 1, 2, 4, 8 or 16 bytes");
  }
}

/// Fragments come from other ranks and from files.
void check_fragments(const BlobTensor& item) {
  const Shape& shape = item.tensor.shape;
  for (const Fragment& fragment : item.fragments) {
    const bool is_inside = fragment.box.rank() == shape.rank() &&
                           fragment.box.end.rank() == shape.rank() &&
                           fragment.view.strides.rank() == shape.rank() && !fragment.box.empty() &&
                           contains(Box::whole(shape), fragment.box);
    if (!is_inside) {
      refuse_map("cannot join packed states at '" + item.tensor.name + "'",
                 "it is told to have the box from " + fragment.box.begin.to_string() + " to " +
                     fragment.box.end.to_string() + " with strides " +
                     fragment.view.strides.to_string() + ", which is none of a tensor of shape " +
                     shape.to_string(),
                 "give what make_packing() has told of each run");
    }
  }
}

void check_reach(const LogicalTensor& tensor, const Fragment& fragment) {
  if (!fits_a_buffer(fragment.box, fragment.view)) {
    refuse_map("cannot join packed states at '" + tensor.name + "'",
               fragment.box.to_string() + " at element " +
                   std::to_string(fragment.view.offset_elems) + " with strides " +
                   fragment.view.strides.to_string() + " reaches further than any buffer does",
               "give what make_packing() has told of each run");
  }
}

std::int64_t aligned(std::int64_t size_bytes) {
  return checked_add(size_bytes, kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
}

class Joiner {
 public:
  void add(const PackedShare& share) {
    for (BlobTensor& item : decode_blob(share.blob).tensors) {
      const bool is_whole = item.cut < 0 && item.fragments.empty();
      if (item.cut >= 0 || (is_whole && num_elements(item.tensor.shape) > 0)) {
        refuse_map("cannot join packed states at '" + item.tensor.name + "'",
                   "it is told as a live tensor is, not as lying in a run",
                   "give what make_packing() has told of each run");
      }
      add_tensor(std::move(item), share.offset_bytes);
    }
  }

  [[nodiscard]] std::vector<Descriptor> joined() {
    std::vector<Descriptor> all;
    all.reserve(by_name_.size());
    for (auto& [name, descriptor] : by_name_) {
      all.push_back(std::move(descriptor));
    }
    return all;
  }

 private:
  void add_tensor(BlobTensor item, std::int64_t offset_bytes) {
    check_itemsize(item.tensor);
    check_fragments(item);
    const std::int64_t itemsize = item.tensor.dtype.size_bytes;
    const auto [at, is_new] =
        by_name_.try_emplace(item.tensor.name, Descriptor{item.tensor, {}, {}, {}});
    Descriptor& known = at->second;
    if (known.tensor != item.tensor) {
      refuse_map("packed states disagree about '" + item.tensor.name + "'",
                 describe(known.tensor) + "; " + describe(item.tensor),
                 "join runs of one version of one model");
    }
    for (Fragment& fragment : item.fragments) {
      fragment.view.offset_elems = checked_add(fragment.view.offset_elems, offset_bytes / itemsize);
      check_reach(item.tensor, fragment);
      add_fragment(known.fragments, fragment);
    }
  }

  /// Adds what of `fragment` none of `held` has.
  static void add_fragment(std::vector<Fragment>& held, const Fragment& fragment) {
    std::vector<Box> left{fragment.box};
    for (const Fragment& other : held) {
      std::vector<Box> still;
      for (const Box& box : left) {
        std::ranges::move(subtract(box, other.box), std::back_inserter(still));
      }
      left = std::move(still);
    }
    for (const Box& box : left) {
      held.push_back({box, sub_view(fragment.box, fragment.view, box)});
    }
  }

  std::map<std::string, Descriptor> by_name_;
};

}  // namespace

Packing make_packing(std::span<const Descriptor> descriptors, int rank) {
  Packing packing;
  KnownShardings shardings;
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const LogicalTensor& tensor = descriptors[i].tensor;
    check_itemsize(tensor);
    Descriptor held{tensor, {}, {}, {}};
    for (const Fragment& fragment : live_fragments(descriptors[i], rank, shardings)) {
      if (fragment.box.empty()) {
        continue;
      }
      const std::int64_t itemsize = tensor.dtype.size_bytes;
      const View packed{packing.size_bytes / itemsize, row_major_strides(fragment.box.shape())};
      packing.pieces.push_back({i, fragment.box, fragment.view, packed});
      held.fragments.push_back({fragment.box, packed});
      packing.size_bytes = aligned(
          checked_add(packing.size_bytes, checked_mul(fragment.box.num_elements(), itemsize)));
    }
    // A tensor of no element is held whole by everybody: to say nothing of it would lose it.
    if (!held.fragments.empty() || num_elements(tensor.shape) == 0) {
      packing.held.push_back(std::move(held));
    }
  }
  return packing;
}

std::vector<Descriptor> join_packed(std::span<const PackedShare> shares) {
  Joiner joiner;
  for (const PackedShare& share : shares) {
    if (share.offset_bytes < 0 || share.offset_bytes % kPackedAlignment != 0) {
      refuse_map("cannot join packed states",
                 "a run begins at byte " + std::to_string(share.offset_bytes),
                 "begin each at a multiple of " + std::to_string(kPackedAlignment));
    }
    joiner.add(share);
  }
  return joiner.joined();
}

}  // namespace dynatrain
