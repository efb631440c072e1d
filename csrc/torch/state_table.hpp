#pragma once

#include "dynatrain/execution/executor.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dynatrain {

/// Where one live tensor of this rank lies.
struct LiveMemory {
  std::byte* base = nullptr;  ///< null for a tensor without memory (meta, or an empty shard)
  Shape local_shape;
  Strides local_strides;
  std::int64_t size_bytes = 0;  ///< from base to one past the last element
};

/// One rank's live tensors: what it publishes (descriptors) and what it keeps for itself
/// (addresses). Not owning: the tensors must outlive every use of their addresses.
/// Threads   none of its own; a table is filled by one thread, then only read.
class StateTable {
 public:
  /// Returns the index of a mesh for later use. Errors: LayoutError as Mesh::check().
  int add_mesh(Mesh mesh);
  /// Adds one live tensor. Errors: LayoutError when the name is there already.
  void add(Descriptor descriptor, const LiveMemory& memory);

  /// The same with further names: each pair is a new one and the name of the tensor that it stands
  /// for. Errors: LayoutError when the table lacks a tensor or has a new name already.
  using NewNames = std::vector<std::pair<std::string, std::string>>;
  [[nodiscard]] StateTable with_names(const NewNames& names) const;

  /// Some of the tensors; names that it lacks are passed over.
  [[nodiscard]] StateTable only(const std::set<std::string>& names) const;

  [[nodiscard]] const Mesh& mesh(int index) const;
  [[nodiscard]] std::size_t size() const { return descriptors_.size(); }
  [[nodiscard]] const std::vector<Descriptor>& descriptors() const { return descriptors_; }
  [[nodiscard]] const LiveMemory& memory(std::size_t index) const { return memory_[index]; }

  /// The bytes to publish; they hold no address.
  [[nodiscard]] std::string encode() const { return encode_descriptors(descriptors_); }
  /// The same where the rank r of a mesh is `ranks[r]` of those that hear it. Errors: LayoutError
  /// when a mesh has a rank that is not among these.
  [[nodiscard]] std::string encode_as(std::span<const int> ranks) const;
  /// Of what is published; equal on ranks that publish the same.
  [[nodiscard]] std::uint64_t hash() const;
  /// Of what is published and of every address: unchanged means that nothing was allocated anew.
  [[nodiscard]] std::uint64_t signature() const;

  /// The addresses in the order of the map's tensor ids; null for tensors that are not live here.
  [[nodiscard]] TensorMemory memory_for(const ShardMap& map) const;
  /// The live tensors by the map's ids. Errors: LayoutError naming a live tensor that the map
  /// lacks.
  [[nodiscard]] std::vector<LiveTensor> live_in(const ShardMap& map) const;

 private:
  std::vector<Mesh> meshes_;
  std::vector<Descriptor> descriptors_;
  std::vector<LiveMemory> memory_;
  std::unordered_map<std::string, std::size_t> index_of_;
};

/// Bytes from the first to one past the last element of a strided tensor; 0 when it is empty.
[[nodiscard]] std::int64_t extent_bytes(const Shape& shape,
                                        const Strides& strides,
                                        std::int64_t itemsize);

}  // namespace dynatrain
