#include "torch/state_table.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"

#include <algorithm>
#include <ranges>

namespace dynatrain {

int StateTable::add_mesh(Mesh mesh) {
  mesh.check();
  meshes_.push_back(std::move(mesh));
  return static_cast<int>(meshes_.size()) - 1;
}

const Mesh& StateTable::mesh(int index) const {
  if (index < 0 || static_cast<std::size_t>(index) >= meshes_.size()) {
    throw LayoutError("layout: no mesh has index " + std::to_string(index) + "\n  this table has " +
                      std::to_string(meshes_.size()) + " meshes\n  nothing was added");
  }
  return meshes_[static_cast<std::size_t>(index)];
}

void StateTable::add(Descriptor descriptor, const LiveMemory& memory) {
  const auto [at, is_new] = index_of_.try_emplace(descriptor.tensor.name, descriptors_.size());
  if (!is_new) {
    throw LayoutError("layout: two live tensors of this rank are named '" + at->first +
                      "'\n  expected one per name\n  the second was not added");
  }
  descriptors_.push_back(std::move(descriptor));
  memory_.push_back(memory);
}

StateTable StateTable::with_names(const NewNames& names) const {
  StateTable out = *this;
  for (const auto& [name, of] : names) {
    const auto found = index_of_.find(of);
    if (found == index_of_.end()) {
      std::string text = "layout: '";
      text.append(name).append("' is to stand for '").append(of);
      text.append("', which is no live tensor of this rank\n  expected one of its ");
      throw LayoutError(
          text.append(std::to_string(size())).append(" tensors\n  nothing was added"));
    }
    Descriptor named = descriptors_[found->second];
    named.tensor.name = name;
    out.add(std::move(named), memory_[found->second]);
  }
  return out;
}

StateTable StateTable::only(const std::set<std::string>& names) const {
  StateTable out;
  out.meshes_ = meshes_;
  for (std::size_t i = 0; i < size(); ++i) {
    if (names.contains(descriptors_[i].tensor.name)) {
      out.add(descriptors_[i], memory_[i]);
    }
  }
  return out;
}

std::string StateTable::encode_as(std::span<const int> ranks) const {
  for (const Descriptor& descriptor : descriptors_) {
    for (const int rank : descriptor.mesh.ranks) {
      if (rank < 0 || static_cast<std::size_t>(rank) >= ranks.size()) {
        throw LayoutError("layout: '" + descriptor.tensor.name + "' lies on rank " +
                          std::to_string(rank) + " of a mesh\n  its world has " +
                          std::to_string(ranks.size()) +
                          " ranks\n  nothing was published\n"
                          "  build on meshes of the world that build() is given");
      }
    }
  }
  const auto as_they_are = std::views::iota(0, static_cast<int>(ranks.size()));
  if (std::ranges::equal(ranks, as_they_are)) {
    return encode();
  }
  std::vector<Descriptor> renumbered = descriptors_;
  for (Descriptor& descriptor : renumbered) {
    for (int& rank : descriptor.mesh.ranks) {
      rank = ranks[static_cast<std::size_t>(rank)];
    }
  }
  return encode_descriptors(renumbered);
}

std::uint64_t StateTable::hash() const {
  Hasher hasher;
  hasher.add(std::string_view(encode()));
  return hasher.digest();
}

std::uint64_t StateTable::signature() const {
  Hasher hasher;
  hasher.add(hash());
  for (const LiveMemory& memory : memory_) {
    hasher.add(static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(memory.base)));
  }
  return hasher.digest();
}

TensorMemory StateTable::memory_for(const ShardMap& map) const {
  TensorMemory out;
  out.base.resize(map.num_tensors(), nullptr);
  out.size_bytes.resize(map.num_tensors(), 0);
  for (std::size_t i = 0; i < out.base.size(); ++i) {
    const auto found = index_of_.find(map.tensor(TensorId(static_cast<std::int64_t>(i))).name);
    if (found != index_of_.end()) {
      out.base[i] = memory_[found->second].base;
      out.size_bytes[i] = memory_[found->second].size_bytes;
    }
  }
  return out;
}

std::vector<LiveTensor> StateTable::live_in(const ShardMap& map) const {
  std::vector<LiveTensor> live;
  live.reserve(size());
  for (std::size_t i = 0; i < size(); ++i) {
    const std::string& name = descriptors_[i].tensor.name;
    const TensorId id = map.find(name);
    if (id.value < 0) {
      throw LayoutError("layout: the live tensor '" + name +
                        "' is not in the map\n  the map was made from other tensors\n"
                        "  nothing was moved\n  make the map again");
    }
    live.push_back({id, memory_[i].local_shape, memory_[i].local_strides});
  }
  return live;
}

std::int64_t extent_bytes(const Shape& shape, const Strides& strides, std::int64_t itemsize) {
  std::int64_t last = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 0) {
      return 0;
    }
    last = checked_add(last, checked_mul(shape[d] - 1, strides[d]));
  }
  return checked_mul(checked_add(last, 1), itemsize);
}

}  // namespace dynatrain
