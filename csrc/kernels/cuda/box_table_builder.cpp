#include "kernels/cuda/box_table_builder.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/run_sum.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace dynatrain {
namespace {

constexpr std::int64_t kSectionAlignment = 16;
constexpr std::int64_t kUnitsPerRound = std::int64_t{kThreadsPerBlock} * kUnitsInFlight;
constexpr std::int64_t kMaxRounds = 8;
constexpr std::int64_t kMinUnits = kThreadsPerBlock;  ///< of a block; one for each thread
/// Blocks for each processor before blocks get longer: about eight run at a time, in a few waves.
constexpr std::int64_t kBlocksPerProcessor = 32;

std::uint8_t log2_of(std::int64_t power_of_two) {
  return static_cast<std::uint8_t>(std::countr_zero(static_cast<std::uint64_t>(power_of_two)));
}

template <class T>
std::int64_t size_bytes_of(const std::vector<T>& values) {
  return static_cast<std::int64_t>(values.size() * sizeof(T));
}

template <class T>
void write_at(std::byte* memory, std::int64_t at, const std::vector<T>& values) {
  if (!values.empty()) {
    std::memcpy(memory + at, values.data(), values.size() * sizeof(T));
  }
}

std::int64_t next_section(std::int64_t end) {
  return ceil_div(end, kSectionAlignment) * kSectionAlignment;
}

/// The part [begin, end) of a box's outermost dimension.
ByteBox outer_part(const ByteBox& box, std::int64_t begin, std::int64_t end) {
  ByteBox part = box;
  ByteBox::Dim& outer = part.dims[static_cast<std::size_t>(box.num_dims - 1)];
  const std::int64_t elems_per_step =
      box.num_rows() / outer.extent * box.run_bytes / box.elem_bytes;
  part.src += static_cast<std::uint64_t>(begin * outer.src_stride_bytes);
  part.dst += static_cast<std::uint64_t>(begin * outer.dst_stride_bytes);
  part.first_elem += begin * elems_per_step;
  outer.extent = end - begin;
  part.num_dims -= outer.extent == 1 ? 1 : 0;
  return part;
}

}  // namespace

TableSize BoxTableBuilder::build(const CopyBatch& batch, const AddressTable& addresses) {
  boxes_.clear();
  dims_.clear();
  first_unit_.clear();
  slots_.clear();
  num_units_ = 0;
  term_ = batch.term;
  for (const CopyDescriptor& copy : batch.copies) {
    const BoundCopy bound = bind_copy(copy, batch, addresses);
    if (bound.src != nullptr && (bound.dst != nullptr || copy.sum_slot >= 0)) {
      add(to_byte_box(bound, term_), copy);
    }
  }
  first_unit_.push_back(num_units_);
  deal_to_blocks();
  return size();
}

void BoxTableBuilder::deal_to_blocks() {
  split_ = split_work(num_units_, options_.num_processors);
  if (options_.units_per_block > 0) {
    split_ = {.units_per_block = options_.units_per_block,
              .num_blocks = ceil_div(num_units_, options_.units_per_block)};
  }
  blocks_.resize(static_cast<std::size_t>(split_.num_blocks));
  std::uint32_t box = 0;
  const auto go_to = [&](std::int64_t unit) {
    while (first_unit_[box + 1] <= unit) {
      ++box;
    }
    return box;
  };
  std::int64_t begin = 0;
  for (BlockBoxes& block : blocks_) {
    block.first = go_to(begin);
    begin = std::min(begin + split_.units_per_block, num_units_);
    block.last = go_to(begin - 1);
  }
}

void BoxTableBuilder::add(const ByteBox& box, const CopyDescriptor& copy) {
  const UnitChoice units = choose_units(box);
  std::int64_t num_units = 0;
  if (__builtin_mul_overflow(box.num_rows(), units.units_per_row, &num_units) ||
      num_units > options_.max_units) {
    add_in_parts(box, units, copy);
    return;
  }
  add_record(box, units, copy);
  num_units_ += num_units;
}

void BoxTableBuilder::add_in_parts(const ByteBox& box,
                                   const UnitChoice& units,
                                   const CopyDescriptor& copy) {
  if (box.num_dims > 0) {
    const std::int64_t extent = box.dims[static_cast<std::size_t>(box.num_dims - 1)].extent;
    const std::int64_t rows_per_step = box.num_rows() / extent;
    const std::int64_t steps =
        std::max<std::int64_t>(1, options_.max_units / units.units_per_row / rows_per_step);
    for (std::int64_t begin = 0; begin < extent; begin += steps) {
      add(outer_part(box, begin, std::min(extent, begin + steps)), copy);
    }
    return;
  }
  // Parts of a run keep its alignment and hold whole elements.
  const std::int64_t grain = box.has_sum ? checked_mul(16, box.elem_bytes) : 16;
  const std::int64_t unit_bytes =
      units.kind == UnitKind::kElement ? box.elem_bytes : units.width_bytes;
  const std::int64_t part_bytes = (options_.max_units - 2) * unit_bytes / grain * grain;
  DYNATRAIN_CHECK(part_bytes > 0,
                  "kernels: elements of " + std::to_string(box.elem_bytes) +
                      " bytes are too wide for a sum on a device");
  for (std::int64_t begin = 0; begin < box.run_bytes; begin += part_bytes) {
    ByteBox part = box;
    part.src += static_cast<std::uint64_t>(begin);
    part.dst += static_cast<std::uint64_t>(begin);
    part.first_elem += begin / box.elem_bytes;
    part.run_bytes = std::min(part_bytes, box.run_bytes - begin);
    add(part, copy);
  }
}

void BoxTableBuilder::add_record(const ByteBox& box,
                                 const UnitChoice& units,
                                 const CopyDescriptor& copy) {
  if (copy.sum_slot >= 0 &&
      (slots_.empty() || slots_.back() != static_cast<std::uint32_t>(copy.sum_slot))) {
    slots_.push_back(static_cast<std::uint32_t>(copy.sum_slot));
  }
  const std::int64_t words_per_elem = box.elem_bytes < 8 ? 1 : ceil_div(box.elem_bytes, 8);
  const bool is_indexed = term_ == SumTerm::kFingerprint;
  const auto words_of = [&](std::int64_t bytes) { return bytes / box.elem_bytes * words_per_elem; };
  boxes_.push_back(
      {.src = box.src,
       .dst = is_indexed
                  ? static_cast<std::uint64_t>(words_of(static_cast<std::int64_t>(box.dst))) +
                        fingerprint_key_offset(copy.sum_key)
                  : box.dst,
       .run_bytes = box.run_bytes,
       .first_word = static_cast<std::uint64_t>(box.first_elem * words_per_elem),
       .units_per_row = FastDivider::of(static_cast<std::uint32_t>(units.units_per_row)),
       .first_dim = static_cast<std::uint32_t>(dims_.size()),
       .elem_bytes =
           units.kind == UnitKind::kElement ? static_cast<std::uint32_t>(box.elem_bytes) : 0U,
       .sum_group = slots_.empty() ? 0U : static_cast<std::uint32_t>(slots_.size() - 1),
       .width_log2 = log2_of(units.width_bytes),
       .step_log2 = log2_of(units.step_bytes),
       .word_log2 = log2_of(units.word_bytes),
       .unit = units.kind,
       .has_sum = box.has_sum,
       .has_target = box.has_target,
       .num_dims = static_cast<std::uint8_t>(box.num_dims)});
  for (int d = box.num_dims - 1; d >= 0; --d) {
    const ByteBox::Dim& dim = box.dims[static_cast<std::size_t>(d)];
    dims_.push_back(
        {.src_stride_bytes = dim.src_stride_bytes,
         .dst_stride_bytes = is_indexed ? words_of(dim.dst_stride_bytes) : dim.dst_stride_bytes,
         .extent = FastDivider::of(static_cast<std::uint32_t>(dim.extent))});
  }
  first_unit_.push_back(num_units_);
}

TableSize BoxTableBuilder::size() const {
  TableSize size{.layout = {},
                 .num_units = num_units_,
                 .num_groups = static_cast<std::int64_t>(slots_.size()),
                 .sums = slots_.empty()            ? TableSums::kNone
                         : term_ == SumTerm::kPart ? TableSums::kParts
                                                   : TableSums::kFingerprints,
                 .split = split_};
  TableLayout& layout = size.layout;
  layout.first_unit_at = size_bytes_of(boxes_);
  layout.blocks_at = layout.first_unit_at + size_bytes_of(first_unit_);
  layout.dims_at = next_section(layout.blocks_at + size_bytes_of(blocks_));
  layout.group_sums_at = layout.dims_at + size_bytes_of(dims_);
  layout.sums_at = next_section(layout.group_sums_at + size_bytes_of(slots_));
  layout.upload_bytes =
      layout.sums_at + size.num_groups * static_cast<std::int64_t>(sizeof(std::uint64_t));
  layout.slots_at = layout.upload_bytes;
  layout.total_bytes = next_section(layout.slots_at + size_bytes_of(slots_));
  return size;
}

void BoxTableBuilder::write(std::byte* memory, bool to_slots) const {
  const TableLayout layout = size().layout;
  write_at(memory, 0, boxes_);
  write_at(memory, layout.first_unit_at, first_unit_);
  write_at(memory, layout.blocks_at, blocks_);
  write_at(memory, layout.dims_at, dims_);
  write_at(memory, layout.group_sums_at, slots_);
  if (!to_slots) {
    for (std::uint32_t group = 0; group < slots_.size(); ++group) {
      std::memcpy(memory + layout.group_sums_at + group * sizeof(group), &group, sizeof(group));
    }
  }
  std::memset(memory + layout.sums_at, 0, slots_.size() * sizeof(std::uint64_t));
  write_at(memory, layout.slots_at, slots_);
}

std::int64_t usual_table_bytes(std::int64_t num_copies) {
  constexpr std::int64_t usual_dims = 3;
  constexpr std::int64_t sum_bytes = sizeof(std::uint64_t) + 2 * sizeof(std::uint32_t);
  constexpr std::int64_t copy_bytes = sizeof(BoxRecord) + sizeof(std::int64_t) +
                                      sizeof(BlockBoxes) + usual_dims * sizeof(BoxDim) + sum_bytes;
  constexpr std::int64_t end_bytes = 8 * kSectionAlignment;
  return checked_mul(num_copies, copy_bytes) + end_bytes;
}

BoxTable view_table(const TableSize& size, std::byte* memory, std::uint64_t* sums) {
  const TableLayout& layout = size.layout;
  return {
      .boxes = reinterpret_cast<const BoxRecord*>(memory),
      .dims = reinterpret_cast<const BoxDim*>(memory + layout.dims_at),
      .first_unit = reinterpret_cast<const std::int64_t*>(memory + layout.first_unit_at),
      .blocks = reinterpret_cast<const BlockBoxes*>(memory + layout.blocks_at),
      .group_sums = reinterpret_cast<const std::uint32_t*>(memory + layout.group_sums_at),
      .sums = sums != nullptr ? sums : reinterpret_cast<std::uint64_t*>(memory + layout.sums_at),
      .num_units = size.num_units,
      .units_per_block = size.split.units_per_block};
}

WorkSplit split_work(std::int64_t num_units, int num_processors) {
  const auto rounds_of = [num_units](std::int64_t num_blocks, std::int64_t units_per_round) {
    return ceil_div(num_units, num_blocks * units_per_round);
  };
  // Little work goes to all processors before any of them gets a full round.
  const std::int64_t small = rounds_of(num_processors, kMinUnits);
  const std::int64_t large = rounds_of(kBlocksPerProcessor * num_processors, kUnitsPerRound);
  const std::int64_t units_per_block = small * kMinUnits < kUnitsPerRound
                                           ? std::max<std::int64_t>(small, 1) * kMinUnits
                                           : std::min(large, kMaxRounds) * kUnitsPerRound;
  return {.units_per_block = units_per_block, .num_blocks = ceil_div(num_units, units_per_block)};
}

}  // namespace dynatrain
