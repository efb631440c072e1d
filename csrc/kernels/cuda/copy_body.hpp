#pragma once

// The body of the copy kernel, in terms of a Machine that loads, stores and adds sums. The device's
// machine is in copy_kernel.cu; a test's machine checks every access, one thread after another.
//
//   static constexpr TableSums kSums;  // what the table's boxes are summed to
//   template <int kWidth> Bits Machine::load(std::uint64_t address);
//   template <int kWidth> void Machine::store(std::uint64_t address, Bits bits);
//   void Machine::add(std::uint32_t group, std::uint64_t term);

#include "dynatrain/execution/run_sum.hpp"

#include "kernels/cuda/box_table.hpp"
#include "kernels/cuda/host_device.hpp"
#include <cstdint>

namespace dynatrain {

/// Up to 16 bytes of memory, the first byte lowest.
struct Bits {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
};

/// The units of one block, [begin, end), and the boxes that they lie in.
struct BlockWork {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t first_box = 0;
  std::int64_t last_box = 0;
};

/// Which thread of the block this is.
struct Worker {
  std::uint32_t index = 0;
  std::uint32_t num_workers = 1;
};

/// Units of one box, counted within the box.
struct BoxUnits {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
};

/// One unit of a box: addresses of its first byte (of a window: even when that is not in the row).
struct UnitPlace {
  std::uint64_t src = 0;
  std::uint64_t dst = 0;  ///< of a fingerprint: the index of its row's, or element's, first word
  std::int64_t position = 0;  ///< of its first byte in the box's row-major order; of a fingerprint,
                              ///< in its row
  std::int32_t begin = 0;     ///< bytes of a window that are in the row: [begin, end)
  std::int32_t end = 0;
};

/// The last of the boxes [first, last] that starts at or before `unit`.
DYNATRAIN_HOST_DEVICE inline std::int64_t find_box(const BoxTable& table,
                                                   std::int64_t unit,
                                                   std::int64_t first,
                                                   std::int64_t last) {
  while (first < last) {
    const std::int64_t middle = first + (last - first + 1) / 2;
    if (table.first_unit[middle] <= unit) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return first;
}

DYNATRAIN_HOST_DEVICE inline BlockWork find_block_work(const BoxTable& table, std::int64_t block) {
  const BlockBoxes boxes = table.blocks[block];
  const std::int64_t begin = block * table.units_per_block;
  const std::int64_t end = begin + table.units_per_block;
  return {.begin = begin,
          .end = end < table.num_units ? end : table.num_units,
          .first_box = boxes.first,
          .last_box = boxes.last};
}

/// A box as a thread works on it: read once, so that a store, which might be to the table for all
/// that the compiler knows, makes no thread read it again.
struct LoadedBox {
  BoxRecord record;
  BoxDim inner;                  ///< the innermost dimension outside the run
  const BoxDim* dims = nullptr;  ///< all of them, outermost first
};

DYNATRAIN_HOST_DEVICE inline LoadedBox load_box(const BoxTable& table, std::int64_t index) {
  LoadedBox box;
  box.record = table.boxes[index];
  box.dims = table.dims + box.record.first_dim;
  if (box.record.num_dims > 0) {
    box.inner = box.dims[box.record.num_dims - 1];
  }
  return box;
}

DYNATRAIN_HOST_DEVICE inline std::uint32_t words_per_elem(const BoxRecord& box) {
  return (box.elem_bytes + 7U) / 8U;
}

/// Adds the coordinate in one dimension to a row's addresses; `rest` is left for the outer ones.
DYNATRAIN_HOST_DEVICE inline void add_coordinate(
    const BoxDim& dim, bool is_last, std::uint32_t& rest, std::uint64_t& src, std::uint64_t& dst) {
  const std::uint32_t next = is_last ? 0 : dim.extent.divide(rest);
  const std::int64_t coordinate = rest - next * dim.extent.divisor;
  src += static_cast<std::uint64_t>(coordinate * dim.src_stride_bytes);
  dst += static_cast<std::uint64_t>(coordinate * dim.dst_stride_bytes);
  rest = next;
}

/// The row that a unit is in: addresses of the row's first byte, and where the unit is in it.
struct UnitRow {
  std::uint64_t src = 0;
  std::uint64_t dst = 0;
  std::uint32_t row = 0;
  std::uint32_t in_row = 0;  ///< units
};

/// Row and place within the row by division, the row's addresses by its coordinates.
DYNATRAIN_HOST_DEVICE inline UnitRow find_row(const LoadedBox& loaded, std::uint32_t unit) {
  const BoxRecord& box = loaded.record;
  UnitRow found{.src = box.src, .dst = box.dst, .row = 0, .in_row = unit};
  if (box.num_dims > 0) {
    found.row = box.units_per_row.divide(unit);
    found.in_row = unit - found.row * box.units_per_row.divisor;
    std::uint32_t rest = found.row;
    add_coordinate(loaded.inner, box.num_dims == 1, rest, found.src, found.dst);
    DYNATRAIN_NO_UNROLL for (int d = box.num_dims - 2; d >= 0; --d) {
      add_coordinate(loaded.dims[d], d == 0, rest, found.src, found.dst);
    }
  }
  return found;
}

/// A unit that is a window of kWidth bytes.
template <TableSums kSums, int kWidth>
DYNATRAIN_HOST_DEVICE inline UnitPlace locate_window(const LoadedBox& box, std::uint32_t unit) {
  constexpr bool is_indexed = kSums == TableSums::kFingerprints;
  const UnitRow row = find_row(box, unit);
  const std::uint64_t row_begin = is_indexed ? row.src : row.dst;
  const std::int64_t start = std::int64_t{row.in_row} * kWidth -
                             static_cast<std::int64_t>(row_begin & std::uint64_t{kWidth - 1});
  const std::int64_t left = box.record.run_bytes - start;
  UnitPlace place;
  place.begin = start < 0 ? static_cast<std::int32_t>(-start) : 0;
  place.end = left < kWidth ? static_cast<std::int32_t>(left) : kWidth;
  place.src = row.src + static_cast<std::uint64_t>(start);
  place.dst = is_indexed ? row.dst : row.dst + static_cast<std::uint64_t>(start);
  place.position = is_indexed ? start : row.row * box.record.run_bytes + start;
  return place;
}

/// A unit that is an element; `position` is not used.
template <TableSums kSums>
DYNATRAIN_HOST_DEVICE inline UnitPlace locate_element(const LoadedBox& box, std::uint32_t unit) {
  const UnitRow row = find_row(box, unit);
  const std::uint64_t start = std::uint64_t{row.in_row} * box.record.elem_bytes;
  UnitPlace place;
  place.src = row.src + start;
  place.dst = kSums == TableSums::kFingerprints
                  ? row.dst + std::uint64_t{row.in_row} * words_per_elem(box.record)
                  : row.dst + start;
  return place;
}

template <TableSums kSums>
DYNATRAIN_HOST_DEVICE inline std::uint64_t sum_term(std::uint64_t index,
                                                    std::uint64_t word,
                                                    bool of_narrow) {
  return kSums == TableSums::kFingerprints ? fingerprint_term(0, index, word)
                                           : part_sum_term(index, word, of_narrow);
}

/// The sum of the words that the first kBytes of `bits` are, numbered from `index` on.
template <TableSums kSums, int kBytes>
DYNATRAIN_HOST_DEVICE inline std::uint64_t sum_of_words(Bits bits,
                                                        unsigned word_log2,
                                                        std::uint64_t index) {
  const unsigned half_word_bits = 4U << word_log2;
  const std::uint64_t mask = ~std::uint64_t{0} >> (64U - 2U * half_word_bits);
  std::uint64_t salt = kSumStep * index;
  std::uint64_t sum = 0;
  DYNATRAIN_UNROLL for (int at = 0; at < kBytes; at += 8) {
    std::uint64_t rest = at == 0 ? bits.low : bits.high;
    DYNATRAIN_NO_UNROLL for (int left = kBytes < 8 ? kBytes : 8; left > 0; left -= 1 << word_log2) {
      sum += sum_term<kSums>(0, (rest & mask) + salt, is_narrow(1 << word_log2));
      salt += kSumStep;
      rest = rest >> half_word_bits >> half_word_bits;  // by 64 at once would be undefined
    }
  }
  return sum;
}

template <int kBytes, class Machine>
DYNATRAIN_HOST_DEVICE inline void add_words(
    const BoxRecord& box, const UnitPlace& place, int at, Bits bits, Machine& machine) {
  constexpr TableSums kSums = Machine::kSums;
  const std::uint64_t first = kSums == TableSums::kFingerprints ? place.dst : box.first_word;
  const std::uint64_t index =
      first + (static_cast<std::uint64_t>(place.position + at) >> box.word_log2);
  machine.add(box.sum_group, sum_of_words<kSums, kBytes>(bits, box.word_log2, index));
}

template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void finish_access(
    const BoxRecord& box, const UnitPlace& place, int at, Bits bits, Machine& machine) {
  if constexpr (Machine::kSums != TableSums::kFingerprints) {
    if (box.has_target) {
      machine.template store<kWidth>(place.dst + static_cast<std::uint64_t>(at), bits);
    }
  }
  if constexpr (Machine::kSums != TableSums::kNone) {
    if (box.has_sum) {
      add_words<kWidth>(box, place, at, bits, machine);
    }
  }
}

/// A window that lies in its row only partly: the bytes that do, in the steps that both sides
/// allow.
template <int kStep, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_steps(const BoxRecord& box,
                                             const UnitPlace& place,
                                             Machine& machine) {
  for (std::int32_t at = place.begin; at < place.end; at += kStep) {
    const Bits bits = machine.template load<kStep>(place.src + static_cast<std::uint64_t>(at));
    finish_access<kStep>(box, place, at, bits, machine);
  }
}

template <class Machine>
DYNATRAIN_HOST_DEVICE inline void move_edge(const BoxRecord& box,
                                            const UnitPlace& place,
                                            Machine& machine) {
  switch (box.step_log2) {
    case 0:
      return move_steps<1>(box, place, machine);
    case 1:
      return move_steps<2>(box, place, machine);
    case 2:
      return move_steps<4>(box, place, machine);
    default:
      return move_steps<8>(box, place, machine);
  }
}

/// One element in accesses of kWidth bytes, gathered into words of 8 bytes for its sum.
template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_element(const BoxRecord& box,
                                               const UnitPlace& place,
                                               std::uint32_t unit,
                                               Machine& machine) {
  constexpr bool is_indexed = Machine::kSums == TableSums::kFingerprints;
  std::uint64_t index =
      is_indexed ? place.dst : box.first_word + std::uint64_t{unit} * words_per_elem(box);
  std::uint64_t word = 0;
  std::uint64_t sum = 0;
  for (std::uint32_t at = 0; at < box.elem_bytes; at += kWidth) {
    const Bits bits = machine.template load<kWidth>(place.src + at);
    if (!is_indexed && box.has_target) {
      machine.template store<kWidth>(place.dst + at, bits);
    }
    word |= bits.low << (8U * (at % 8U));
    if ((at + kWidth) % 8U == 0 || at + kWidth >= box.elem_bytes) {
      sum += sum_term<Machine::kSums>(index++, word, is_narrow(box.elem_bytes));
      word = 0;
    }
  }
  machine.add(box.sum_group, sum);
}

/// A window that its row fills: loads now, the rest is finish_access.
template <int kWidth>
DYNATRAIN_HOST_DEVICE inline bool is_whole(const UnitPlace& place) {
  return place.begin == 0 && place.end == kWidth;
}

/// What a thread has under way at a time: every num_workers-th unit from `first` on.
struct UnitsInFlight {
  std::uint32_t first = 0;
  std::uint32_t end = 0;  ///< of the box's units that are to be moved
  std::uint32_t step = 1;
};

/// The units among them whose windows are only partly in their rows. Rare, and one copy of its
/// code.
template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_edges(const LoadedBox& box,
                                             UnitsInFlight units,
                                             Machine& machine) {
  DYNATRAIN_NO_UNROLL for (std::uint32_t i = 0; i < kUnitsInFlight; ++i) {
    const std::uint32_t unit = units.first + i * units.step;
    if (unit >= units.end) {
      return;
    }
    const UnitPlace place = locate_window<Machine::kSums, kWidth>(box, unit);
    if (!is_whole<kWidth>(place)) {
      move_edge(box.record, place, machine);
    }
  }
}

/// The block's threads side by side, each with several loads under way before its first store.
template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_windows(const LoadedBox& box,
                                               BoxUnits units,
                                               Worker worker,
                                               Machine& machine) {
  const std::uint32_t stride = kUnitsInFlight * worker.num_workers;
  DYNATRAIN_NO_UNROLL for (std::uint32_t first = units.begin + worker.index; first < units.end;
                           first += stride) {
    UnitPlace places[kUnitsInFlight];
    Bits bits[kUnitsInFlight];
    bool has_edge = false;
    DYNATRAIN_UNROLL for (std::uint32_t i = 0; i < kUnitsInFlight; ++i) {
      const std::uint32_t unit = first + i * worker.num_workers;
      if (unit < units.end) {
        places[i] = locate_window<Machine::kSums, kWidth>(box, unit);
        has_edge |= !is_whole<kWidth>(places[i]);
      }
      if (is_whole<kWidth>(places[i])) {
        bits[i] = machine.template load<kWidth>(places[i].src);
      }
    }
    DYNATRAIN_UNROLL for (std::uint32_t i = 0; i < kUnitsInFlight; ++i) {
      if (is_whole<kWidth>(places[i])) {
        finish_access<kWidth>(box.record, places[i], 0, bits[i], machine);
      }
    }
    if (has_edge) {
      move_edges<kWidth>(box, {first, units.end, worker.num_workers}, machine);
    }
  }
}

/// The units of one box that are the worker's: units.begin + index, then every num_workers-th.
template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_units(const LoadedBox& box,
                                             BoxUnits units,
                                             Worker worker,
                                             Machine& machine) {
  if constexpr (Machine::kSums != TableSums::kNone && kWidth <= 8) {
    if (box.record.unit == UnitKind::kElement) {
      for (std::uint32_t unit = units.begin + worker.index; unit < units.end;
           unit += worker.num_workers) {
        move_element<kWidth>(box.record, locate_element<Machine::kSums>(box, unit), unit, machine);
      }
      return;
    }
  }
  move_windows<kWidth>(box, units, worker, machine);
}

template <class Machine>
DYNATRAIN_HOST_DEVICE inline void move_units_of_any_width(const LoadedBox& box,
                                                          BoxUnits units,
                                                          Worker worker,
                                                          Machine& machine) {
  switch (box.record.width_log2) {
    case 0:
      return move_units<1>(box, units, worker, machine);
    case 1:
      return move_units<2>(box, units, worker, machine);
    case 2:
      return move_units<4>(box, units, worker, machine);
    case 3:
      return move_units<8>(box, units, worker, machine);
    default:
      return move_units<16>(box, units, worker, machine);
  }
}

/// Everything that one thread of a block does. Boxes that are large enough for the whole block are
/// taken one after another; of small ones, every thread finds its own unit's.
template <class Machine>
DYNATRAIN_HOST_DEVICE inline void run_thread(const BoxTable& table,
                                             const BlockWork& work,
                                             Worker worker,
                                             Machine& machine) {
  const std::int64_t num_boxes = work.last_box - work.first_box + 1;
  const bool is_together = work.end - work.begin >= num_boxes * worker.num_workers;
  std::int64_t box = work.first_box;
  for (std::int64_t at = is_together ? work.begin : work.begin + worker.index; at < work.end;) {
    box = is_together ? box : find_box(table, at, box, work.last_box);
    const std::int64_t first = table.first_unit[box];
    const std::int64_t next = table.first_unit[box + 1];
    const std::int64_t end = !is_together ? at + 1 : next < work.end ? next : work.end;
    move_units_of_any_width(
        load_box(table, box),
        {static_cast<std::uint32_t>(at - first), static_cast<std::uint32_t>(end - first)},
        is_together ? worker : Worker{},
        machine);
    at = is_together ? end : at + worker.num_workers;
    box += is_together ? 1 : 0;
  }
}

}  // namespace dynatrain
