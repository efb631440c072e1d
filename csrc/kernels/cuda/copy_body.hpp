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

/// The units of one block, [begin, end), and the boxes that they lie in. Trivial: it is shared
/// memory of a block.
struct BlockWork {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t first_box;
  std::int64_t last_box;
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
  BlockWork work{};
  const std::int64_t total = table.first_unit[table.num_boxes];
  work.begin = block * table.units_per_block;
  work.end =
      work.begin + table.units_per_block < total ? work.begin + table.units_per_block : total;
  work.first_box = find_box(table, work.begin, 0, table.num_boxes - 1);
  work.last_box = find_box(table, work.end - 1, work.first_box, table.num_boxes - 1);
  return work;
}

DYNATRAIN_HOST_DEVICE inline std::uint32_t words_per_elem(const BoxRecord& box) {
  return (box.elem_bytes + 7U) / 8U;
}

/// Finds a unit: row and place within the row by division, the row's addresses by its coordinates.
template <TableSums kSums>
DYNATRAIN_HOST_DEVICE inline UnitPlace locate(const BoxDim* dims,
                                              const BoxRecord& box,
                                              std::uint32_t unit) {
  std::uint32_t row = 0;
  std::uint64_t src = box.src;
  std::uint64_t dst = box.dst;
  if (box.num_dims > 0) {
    row = box.units_per_row.divide(unit);
    std::uint32_t rest = row;
    for (int d = box.num_dims - 1; d >= 0; --d) {
      const BoxDim& dim = dims[box.first_dim + static_cast<std::uint32_t>(d)];
      const std::uint32_t next = d > 0 ? dim.extent.divide(rest) : 0;
      const std::int64_t coordinate = rest - next * dim.extent.divisor;
      src += static_cast<std::uint64_t>(coordinate * dim.src_stride_bytes);
      dst += static_cast<std::uint64_t>(coordinate * dim.dst_stride_bytes);
      rest = next;
    }
  }
  const std::int64_t in_row = unit - row * box.units_per_row.divisor;
  constexpr bool is_indexed = kSums == TableSums::kFingerprints;
  UnitPlace place;
  std::int64_t start = in_row * box.elem_bytes;
  if (box.unit == UnitKind::kWindow) {
    const std::int64_t width = std::int64_t{1} << box.width_log2;
    const std::uint64_t row_begin = is_indexed ? src : dst;
    start = (in_row << box.width_log2) - (static_cast<std::int64_t>(row_begin) & (width - 1));
    const std::int64_t left = box.run_bytes - start;
    place.begin = static_cast<std::int32_t>(start < 0 ? -start : 0);
    place.end = static_cast<std::int32_t>(left < width ? left : width);
  }
  place.src = src + static_cast<std::uint64_t>(start);
  if constexpr (is_indexed) {  // a window's elem_bytes are 0
    place.dst = dst + static_cast<std::uint64_t>(in_row) * words_per_elem(box);
    place.position = start;
  } else {
    place.dst = dst + static_cast<std::uint64_t>(start);
    place.position = row * box.run_bytes + start;
  }
  return place;
}

template <TableSums kSums>
DYNATRAIN_HOST_DEVICE inline std::uint64_t sum_term(std::uint64_t index, std::uint64_t word) {
  return kSums == TableSums::kFingerprints ? fingerprint_term(0, index, word)
                                           : part_sum_term(index, word);
}

/// The sum of the words of kWord bytes that `bits` begins with, numbered from `index` on.
template <TableSums kSums, int kWord>
DYNATRAIN_HOST_DEVICE inline std::uint64_t sum_of_words(Bits bits,
                                                        int num_bytes,
                                                        std::uint64_t index) {
  std::uint64_t sum = 0;
  DYNATRAIN_UNROLL for (int at = 0; at < num_bytes; at += kWord) {
    const std::uint64_t half = at < 8 ? bits.low : bits.high;
    std::uint64_t word = half >> (8U * (static_cast<unsigned>(at) % 8U));
    if constexpr (kWord < 8) {
      word &= (std::uint64_t{1} << (8U * kWord)) - 1U;
    }
    sum += sum_term<kSums>(index++, word);
  }
  return sum;
}

template <class Machine>
DYNATRAIN_HOST_DEVICE inline void add_words(const BoxRecord& box,
                                            const UnitPlace& place,
                                            int at,
                                            Bits bits,
                                            int num_bytes,
                                            Machine& machine) {
  constexpr TableSums kSums = Machine::kSums;
  const std::uint64_t first = kSums == TableSums::kFingerprints ? place.dst : box.first_word;
  const std::uint64_t index =
      first + (static_cast<std::uint64_t>(place.position + at) >> box.word_log2);
  std::uint64_t sum = 0;
  switch (box.word_log2) {
    case 0:
      sum = sum_of_words<kSums, 1>(bits, num_bytes, index);
      break;
    case 1:
      sum = sum_of_words<kSums, 2>(bits, num_bytes, index);
      break;
    case 2:
      sum = sum_of_words<kSums, 4>(bits, num_bytes, index);
      break;
    default:
      sum = sum_of_words<kSums, 8>(bits, num_bytes, index);
      break;
  }
  machine.add(box.sum_group, sum);
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
      add_words(box, place, at, bits, kWidth, machine);
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
      sum += sum_term<Machine::kSums>(index++, word);
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

/// The block's threads side by side, each with several loads under way before its first store.
template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_windows(
    const BoxTable& table, const BoxRecord& box, BoxUnits units, Worker worker, Machine& machine) {
  for (std::uint32_t first = units.begin + worker.index; first < units.end;
       first += kUnitsInFlight * worker.num_workers) {
    UnitPlace places[kUnitsInFlight];
    Bits bits[kUnitsInFlight];
    DYNATRAIN_UNROLL for (std::uint32_t i = 0; i < kUnitsInFlight; ++i) {
      const std::uint32_t unit = first + i * worker.num_workers;
      places[i] = unit < units.end ? locate<Machine::kSums>(table.dims, box, unit) : UnitPlace{};
      if (is_whole<kWidth>(places[i])) {
        bits[i] = machine.template load<kWidth>(places[i].src);
      }
    }
    DYNATRAIN_UNROLL for (std::uint32_t i = 0; i < kUnitsInFlight; ++i) {
      if (is_whole<kWidth>(places[i])) {
        finish_access<kWidth>(box, places[i], 0, bits[i], machine);
      } else {
        move_edge(box, places[i], machine);
      }
    }
  }
}

/// The units of one box that are the worker's: units.begin + index, then every num_workers-th.
template <int kWidth, class Machine>
DYNATRAIN_HOST_DEVICE inline void move_units(
    const BoxTable& table, const BoxRecord& box, BoxUnits units, Worker worker, Machine& machine) {
  if constexpr (Machine::kSums != TableSums::kNone && kWidth <= 8) {
    if (box.unit == UnitKind::kElement) {
      for (std::uint32_t unit = units.begin + worker.index; unit < units.end;
           unit += worker.num_workers) {
        move_element<kWidth>(box, locate<Machine::kSums>(table.dims, box, unit), unit, machine);
      }
      return;
    }
  }
  move_windows<kWidth>(table, box, units, worker, machine);
}

template <class Machine>
DYNATRAIN_HOST_DEVICE inline void move_units_of_any_width(
    const BoxTable& table, const BoxRecord& box, BoxUnits units, Worker worker, Machine& machine) {
  switch (box.width_log2) {
    case 0:
      return move_units<1>(table, box, units, worker, machine);
    case 1:
      return move_units<2>(table, box, units, worker, machine);
    case 2:
      return move_units<4>(table, box, units, worker, machine);
    case 3:
      return move_units<8>(table, box, units, worker, machine);
    default:
      return move_units<16>(table, box, units, worker, machine);
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
        table,
        table.boxes[box],
        {static_cast<std::uint32_t>(at - first), static_cast<std::uint32_t>(end - first)},
        is_together ? worker : Worker{},
        machine);
    at = is_together ? end : at + worker.num_workers;
    box += is_together ? 1 : 0;
  }
}

}  // namespace dynatrain
