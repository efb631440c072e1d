#pragma once

#include "dynatrain/execution/copier.hpp"

#include "kernels/cuda/box_table.hpp"
#include "kernels/cuda/byte_box.hpp"
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dynatrain {

/// How units are dealt to blocks.
struct WorkSplit {
  std::int64_t units_per_block = 1;
  std::int64_t num_blocks = 0;
};

/// Byte offsets of a table's parts in the one piece of memory that is uploaded.
struct TableLayout {
  std::int64_t first_unit_at = 0;  ///< the boxes are at 0
  std::int64_t blocks_at = 0;
  std::int64_t dims_at = 0;
  std::int64_t group_sums_at = 0;
  std::int64_t sums_at = 0;  ///< zeros, one for each group: where sums go that the caller keeps
                             ///< in memory which the kernel does not reach
  std::int64_t upload_bytes = 0;
  std::int64_t slots_at = 0;     ///< of each group; stays on the host
  std::int64_t total_bytes = 0;  ///< of the host's side
};

/// What a batch needs from a device: how much memory, how many units, how many groups of sums.
struct TableSize {
  TableLayout layout;
  std::int64_t num_units = 0;
  std::int64_t num_groups = 0;
  TableSums sums = TableSums::kNone;
  WorkSplit split;
};

struct TableOptions {
  int num_processors = 1;            ///< of the device, for split_work()
  std::int64_t units_per_block = 0;  ///< 0: as split_work() deals them
  std::int64_t max_units = kMaxUnits;
};

/// Turns batches into tables, one at a time; what it grew for one batch serves the next.
class BoxTableBuilder {
 public:
  explicit BoxTableBuilder(const TableOptions& options) : options_(options) {}

  /// Reads the batch in one pass.
  /// Errors: InternalError when a copy would leave its buffer, or wants a sum and has no place.
  TableSize build(const CopyBatch& batch, const AddressTable& addresses);

  /// Writes the table built last to `memory`, which holds layout.total_bytes. With `to_slots` the
  /// kernel adds into the caller's sums by slot, else into the table's own by group.
  void write(std::byte* memory, bool to_slots) const;

 private:
  void add(const ByteBox& box, const CopyDescriptor& copy);
  void add_in_parts(const ByteBox& box, const UnitChoice& units, const CopyDescriptor& copy);
  void add_record(const ByteBox& box, const UnitChoice& units, const CopyDescriptor& copy);
  void deal_to_blocks();
  [[nodiscard]] TableSize size() const;

  TableOptions options_;
  SumTerm term_ = SumTerm::kPart;
  std::vector<BoxRecord> boxes_;
  std::vector<BoxDim> dims_;
  std::vector<std::int64_t> first_unit_;
  std::vector<BlockBoxes> blocks_;
  WorkSplit split_;
  std::vector<std::uint32_t> slots_;  ///< of each group
  std::int64_t num_units_ = 0;
};

/// Bytes that suffice for a table of so many copies, unless most of them have more than three
/// dimensions outside their runs, are cut in parts, or fill more than a block.
[[nodiscard]] std::int64_t usual_table_bytes(std::int64_t num_copies);

/// The table whose bytes are at `memory` (for the kernel: the device's address of it).
/// Ownership  points into `memory` and `sums`; null: the table's own sums.
[[nodiscard]] BoxTable view_table(const TableSize& size, std::byte* memory, std::uint64_t* sums);

/// Enough blocks that all processors have some, few enough that starting them costs little.
[[nodiscard]] WorkSplit split_work(std::int64_t num_units, int num_processors);

}  // namespace dynatrain
