#pragma once

#include "kernels/cuda/fast_divider.hpp"
#include <cstddef>
#include <cstdint>

namespace dynatrain {

// What the kernel reads, as plain data without a pointer into host memory: the same bytes serve on
// the host, in pinned memory and on the device. docs/design/kernels.md, "`cuda`".

// Aligned so that a thread reads them in accesses of 16 bytes.

/// One dimension of a box outside its contiguous run. Units: bytes.
struct alignas(16) BoxDim {
  std::int64_t src_stride_bytes = 0;
  std::int64_t dst_stride_bytes = 0;  ///< words where the table's sums are fingerprints
  FastDivider extent;
  std::uint32_t unused = 0;
};

/// How a row is cut into units, the pieces that one thread moves at a time.
enum class UnitKind : std::uint8_t {
  kWindow,   ///< an aligned window of the target, 1 to 16 bytes, all or part of it in the row
  kElement,  ///< one element of any width; for sums whose words no window holds whole
};

/// What a table's boxes are summed to.
enum class TableSums : std::uint8_t {
  kNone,
  kParts,        ///< of those with has_sum; a word's index is its place in the part
  kFingerprints  ///< of all; no box has a target, its dst side counts words of the whole tensor
};

/// One box of at most kMaxUnits units: rows of run_bytes contiguous bytes, strided by `num_dims`
/// dimensions, outermost first. Everything about it but the two addresses is relative.
struct alignas(16) BoxRecord {
  std::uint64_t src = 0;
  /// Equal to src when nothing is stored. Of a fingerprint: the index of the first word, with
  /// fingerprint_key_offset().
  std::uint64_t dst = 0;
  std::int64_t run_bytes = 0;
  std::uint64_t first_word = 0;  ///< index, within its part, of the first word that is summed
  FastDivider units_per_row;
  std::uint32_t first_dim = 0;  ///< its dimensions are dims[first_dim .. first_dim + num_dims)
  std::uint32_t elem_bytes = 0;
  std::uint32_t sum_group = 0;  ///< never falls from a box to the next
  std::uint8_t width_log2 = 0;  ///< of a window; of one access of an element
  std::uint8_t step_log2 = 0;   ///< of the accesses to a window that is partly in the row
  std::uint8_t word_log2 = 0;   ///< of the words that are summed
  UnitKind unit = UnitKind::kWindow;
  bool has_sum = false;
  bool has_target = true;
  std::uint8_t num_dims = 0;
  std::uint8_t unused = 0;
};
static_assert(sizeof(BoxDim) == 32 && sizeof(BoxRecord) == 64);

/// The boxes that a block's units lie in, both ends included.
struct alignas(8) BlockBoxes {
  std::uint32_t first = 0;
  std::uint32_t last = 0;
};

/// Where the parts of a table lie, and how its units are dealt to blocks: the kernel's argument.
struct BoxTable {
  const BoxRecord* boxes = nullptr;
  const BoxDim* dims = nullptr;
  const std::int64_t* first_unit = nullptr;  ///< of each box, and the total at the end
  const BlockBoxes* blocks = nullptr;
  const std::uint32_t* group_sums = nullptr;  ///< where in `sums` the sum of each group goes
  std::uint64_t* sums = nullptr;
  std::int64_t num_units = 0;
  std::int64_t units_per_block = 1;
};

/// A box has fewer units than this, so that 32-bit arithmetic finds any of them; larger copies are
/// cut into several boxes.
inline constexpr std::int64_t kMaxUnits = std::int64_t{1} << 30;
inline constexpr int kThreadsPerBlock = 256;
/// Loads that a thread has under way at a time where a block works on one box.
inline constexpr int kUnitsInFlight = 4;

}  // namespace dynatrain
