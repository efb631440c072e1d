#include "dynatrain/layout/shard_map.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"

#include "layout/describe.hpp"
#include <algorithm>
#include <set>
#include <utility>

namespace dynatrain {
namespace {

void check_entry(const ShardMap::Entry& entry) {
  const LogicalTensor& tensor = entry.tensor;
  const std::string what = "cannot map '" + tensor.name + "' (" + describe(tensor) + ")";
  DYNATRAIN_CHECK(entry.sharding != nullptr, "'" + tensor.name + "' has no sharding");
  if (std::ranges::any_of(tensor.shape.values(), [](auto extent) { return extent < 0; }) ||
      tensor.dtype.size_bytes < 1) {
    refuse_map(what,
               "an extent is negative, or an element has " +
                   std::to_string(tensor.dtype.size_bytes) + " bytes",
               "give extents >= 0 and elements of at least 1 byte");
  }
  static_cast<void>(tensor.size_bytes());  // throws when it does not fit 64 bits
  if (const std::string why = entry.sharding->misfit(tensor.shape); !why.empty()) {
    refuse_map(what, why, "publish the placements of the tensor as it is");
  }
}

}  // namespace

std::int64_t LogicalTensor::size_bytes() const {
  return checked_mul(num_elements(shape), dtype.size_bytes);
}

ShardMap::ShardMap(std::vector<Entry> entries) : entries_(std::move(entries)) {
  const auto name_of = [](const Entry& entry) -> const std::string& { return entry.tensor.name; };
  std::ranges::sort(entries_, {}, name_of);
  if (const auto twin = std::ranges::adjacent_find(entries_, {}, name_of); twin != entries_.end()) {
    refuse_map("cannot map '" + twin->tensor.name + "' twice",
               "a name stands for one logical tensor",
               "publish a tied weight under one of its names");
  }
  std::set<const Sharding*> seen;
  for (const Entry& entry : entries_) {
    check_entry(entry);
    if (seen.insert(entry.sharding.get()).second) {
      const std::vector<int> ranks = entry.sharding->ranks();
      num_ranks_ = std::max(num_ranks_, ranks.empty() ? 0 : ranks.back() + 1);
    }
  }
}

const LogicalTensor& ShardMap::tensor(TensorId id) const {
  DYNATRAIN_CHECK(id.value >= 0 && id.index() < entries_.size(),
                  "tensor id " + std::to_string(id.value) + " in a map of " +
                      std::to_string(entries_.size()) + " tensors");
  return entries_[id.index()].tensor;
}

const Sharding& ShardMap::sharding(TensorId id) const {
  static_cast<void>(tensor(id));
  return *entries_[id.index()].sharding;
}

std::shared_ptr<const Sharding> ShardMap::shared_sharding(TensorId id) const {
  return entries_.at(id.index()).sharding;
}

TensorId ShardMap::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(
      entries_, name, {}, [](const Entry& entry) -> std::string_view { return entry.tensor.name; });
  if (found == entries_.end() || found->tensor.name != name) {
    return TensorId{};
  }
  return TensorId{found - entries_.begin()};
}

std::vector<Fragment> ShardMap::fragments(TensorId id, int rank) const {
  return sharding(id).fragments(tensor(id).shape, rank);
}

std::vector<OwnedBox> ShardMap::owned_boxes(TensorId id) const {
  return sharding(id).owned_boxes(tensor(id).shape);
}

std::int64_t ShardMap::bytes_of_rank(int rank) const {
  std::int64_t bytes = 0;
  for (const Entry& entry : entries_) {
    for (const Fragment& fragment : entry.sharding->fragments(entry.tensor.shape, rank)) {
      bytes = checked_add(bytes,
                          checked_mul(fragment.box.num_elements(), entry.tensor.dtype.size_bytes));
    }
  }
  return bytes;
}

std::uint64_t ShardMap::hash() const {
  Hasher hasher;
  for (const Entry& entry : entries_) {
    hasher.add(entry.tensor.name);
    hasher.add(entry.tensor.shape.rank());
    for (const std::int64_t extent : entry.tensor.shape.values()) {
      hasher.add(extent);
    }
    hasher.add(entry.tensor.dtype.name);
    hasher.add(entry.tensor.dtype.size_bytes);
    hasher.add(entry.sharding->hash());
  }
  return hasher.digest();
}

}  // namespace dynatrain
