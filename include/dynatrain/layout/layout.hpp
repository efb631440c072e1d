#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// The axes of a parallel layout, named as torchtitan names mesh dimensions.
enum class Axis : std::uint8_t { kPp, kDpReplicate, kDpShard, kCp, kTp, kEp, kEtp, kVpp };
inline constexpr int kNumMeshAxes = 5;  ///< kPp ... kTp span the world; ep, etp and vpp do not

[[nodiscard]] std::string_view axis_name(Axis axis);
/// Errors: LayoutError when `name` is no axis; the message lists the axes. "dp" means dp_shard.
[[nodiscard]] Axis axis_from_name(std::string_view name);

/// What a user asks for: the size of every parallel axis, the order of the ranks, the layers of
/// each stage. A value; checked when made.
struct LayoutSpec {
  int dp_shard = 1;
  int dp_replicate = 1;
  int cp = 1;
  int tp = 1;
  int pp = 1;
  int ep = 1;   ///< expert parallel; divides dp_shard * cp * tp / etp
  int etp = 1;  ///< tensor parallel inside an expert: 1 or tp
  int vpp = 1;  ///< virtual stages per pipeline rank; 1 when pp is 1
  /// Layers of each virtual stage in model order (pp * vpp numbers); empty means as even as can be,
  /// larger stages first.
  std::vector<int> stages;
  /// Mesh axes from the slowest to the fastest varying rank.
  std::array<Axis, kNumMeshAxes> order{
      Axis::kPp, Axis::kDpReplicate, Axis::kDpShard, Axis::kCp, Axis::kTp};

  friend bool operator==(const LayoutSpec&, const LayoutSpec&) = default;
};

/// A checked parallel layout.
class Layout {
 public:
  /// Errors: LayoutError naming the axis when a size is < 1, ep or etp does not divide, `stages`
  /// has the wrong length or a number < 1, or `order` is no permutation of the mesh axes.
  explicit Layout(LayoutSpec spec);
  /// Reads the text form, e.g. "dp=2,tp=2" or "pp=2,vpp=2,stages=3:2:2:1,order=pp:dp_shard:...".
  /// Errors: LayoutError naming the word that was not understood.
  static Layout parse(std::string_view text);

  [[nodiscard]] const LayoutSpec& spec() const { return spec_; }
  [[nodiscard]] int size(Axis axis) const;
  /// dp_replicate * dp_shard * cp * tp * pp.
  [[nodiscard]] int world_size() const;
  /// The text form without axes of size 1 ("dp=1" when all are 1); parse() reads it back.
  [[nodiscard]] std::string to_string() const;
  /// The coordinate of `rank` (0 <= rank < world_size) along a mesh axis.
  [[nodiscard]] int coordinate(int rank, Axis axis) const;
  /// The ranks that differ from `rank` only along `axes`, ascending, `rank` included.
  [[nodiscard]] std::vector<int> group(int rank, const std::vector<Axis>& axes) const;
  /// The coordinate of `rank` along ep, etp, or the expert data axis ("efsdp" = what remains of
  /// dp_shard * cp * tp after ep * etp). The fastest is etp, then ep, then efsdp.
  struct ExpertCoordinate {
    int efsdp = 0;
    int ep = 0;
    int etp = 0;
  };
  [[nodiscard]] ExpertCoordinate expert_coordinate(int rank) const;
  [[nodiscard]] int efsdp_size() const;
  /// The half-open layer ranges of the virtual stages of `pp_rank`, in model order, vpp of them.
  /// Virtual stage v of pp_rank p is stage v * pp + p of the model.
  /// Errors: LayoutError when `stages` does not add up to num_layers, or there are fewer layers
  /// than stages.
  struct LayerRange {
    int begin = 0;
    int end = 0;
    friend bool operator==(const LayerRange&, const LayerRange&) = default;
  };
  [[nodiscard]] std::vector<LayerRange> layers(int pp_rank, int num_layers) const;
  [[nodiscard]] std::uint64_t hash() const;

  friend bool operator==(const Layout&, const Layout&) = default;

 private:
  LayoutSpec spec_;
};

}  // namespace dynatrain
