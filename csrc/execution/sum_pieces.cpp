#include "execution/sum_pieces.hpp"

#include "dynatrain/base/checked.hpp"

#include "execution/in_threads.hpp"
#include "execution/run_inputs.hpp"
#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <utility>

namespace dynatrain {
namespace {

/// Pinned memory of one lot; two are under way at a time. A single larger piece gets more.
constexpr std::int64_t kLotBytes = 64LL << 20U;
/// Pieces lie in a lot at multiples of this.
constexpr std::int64_t kAlignment = 16;
constexpr BufferId kHostBuffer{0};
constexpr BufferId kPieceBuffer{1};

/// A piece and where its sum goes.
struct Fetched {
  std::size_t index = 0;
  std::int64_t offset_bytes = 0;  ///< in the lot's memory, where it lies densely
};

/// Pieces that are fetched together.
struct Lot {
  std::vector<Fetched> pieces;
  std::int64_t size_bytes = 0;
};

/// Memory of a lot on the host, and the copies into it.
struct Slot {
  std::unique_ptr<CopierMemory> memory;
  CopyBatch batch;
  AddressTable addresses;
  Token arrived;
};

View dense_view(const Shape& shape) {
  return {.offset_elems = 0, .strides = row_major_strides(shape)};
}

class Fetcher {
 public:
  Fetcher(const ShardMap& map,
          const std::vector<SummedBox>& pieces,
          const TensorMemory& memory,
          const HashMeans& means)
      : map_(map), pieces_(pieces), memory_(memory), means_(means) {}

  /// Sums the pieces with the given indices.
  void run(const std::vector<std::size_t>& indices, std::vector<std::uint64_t>& sums) {
    const std::vector<Lot> lots = cut(indices);
    std::int64_t size_bytes = 0;
    for (const Lot& lot : lots) {
      size_bytes = std::max(size_bytes, lot.size_bytes);
    }
    for (std::size_t i = 0; i < std::min(slots_.size(), lots.size()); ++i) {
      slots_.at(i) = std::make_unique<Slot>();
      slots_.at(i)->memory = means_.copier->allocate(size_bytes, Place::kHost);
    }
    try {
      for (std::size_t i = 0; i <= lots.size(); ++i) {
        if (i < lots.size()) {
          fetch(lots[i], *slots_.at(i % 2));
        }
        if (i > 0) {
          sum(lots[i - 1], *slots_.at((i - 1) % 2), sums);
        }
      }
    } catch (...) {
      give_back();
      throw;
    }
  }

 private:
  [[nodiscard]] std::int64_t size_bytes(std::size_t index) const {
    const SummedBox& piece = pieces_[index];
    return checked_mul(piece.box.num_elements(), map_.tensor(piece.tensor).dtype.size_bytes);
  }

  [[nodiscard]] std::vector<Lot> cut(const std::vector<std::size_t>& indices) const {
    std::vector<Lot> lots;
    for (const std::size_t index : indices) {
      const std::int64_t size = ceil_div(size_bytes(index), kAlignment) * kAlignment;
      if (lots.empty() || lots.back().size_bytes + size > kLotBytes) {
        lots.emplace_back();
      }
      lots.back().pieces.push_back({.index = index, .offset_bytes = lots.back().size_bytes});
      lots.back().size_bytes += size;
    }
    return lots;
  }

  void fetch(const Lot& lot, Slot& slot) {
    slot.batch.copies.clear();
    slot.addresses = AddressTable();
    slot.addresses.set(kHostBuffer, slot.memory->data(), lot.size_bytes);
    for (const Fetched& fetched : lot.pieces) {
      const SummedBox& piece = pieces_[fetched.index];
      const LogicalTensor& tensor = map_.tensor(piece.tensor);
      const BufferId source(kPieceBuffer.value + piece.tensor.value);
      const Shape shape = piece.box.shape();
      const View view = view_of(tensor, piece, memory_);
      slot.addresses.set(
          source, memory_.base[piece.tensor.index()], memory_.size_bytes[piece.tensor.index()]);
      slot.batch.copies.push_back({.src = source,
                                   .dst = kHostBuffer,
                                   .elem_bytes = tensor.dtype.size_bytes,
                                   .dst_offset_bytes = fetched.offset_bytes,
                                   .copy = collapse(shape, view, dense_view(shape))});
    }
    slot.arrived = means_.copier->submit(slot.batch, slot.addresses, {});
  }

  void sum(const Lot& lot, Slot& slot, std::vector<std::uint64_t>& sums) {
    slot.arrived.wait(deadline_in(means_.timeout));
    in_threads(std::ssize(lot.pieces), means_.num_threads, [&](std::int64_t i) {
      const Fetched& fetched = lot.pieces[static_cast<std::size_t>(i)];
      const SummedBox& piece = pieces_[fetched.index];
      sums[fetched.index] = sum_box(map_.tensor(piece.tensor),
                                    piece.box,
                                    dense_view(piece.box.shape()),
                                    slot.memory->data() + fetched.offset_bytes);
    });
  }

  /// After an error: memory that a device may still write is never freed.
  void give_back() noexcept {
    for (std::unique_ptr<Slot>& slot : slots_) {
      if (slot != nullptr && !drain(std::array{slot->arrived}, deadline_in(kDrainTime))) {
        static_cast<void>(slot.release());  // NOLINT(bugprone-unused-return-value)
      }
    }
  }

  const ShardMap& map_;
  const std::vector<SummedBox>& pieces_;
  const TensorMemory& memory_;
  const HashMeans& means_;
  std::array<std::unique_ptr<Slot>, 2> slots_;
};

}  // namespace

std::vector<std::uint64_t> sum_pieces(const ShardMap& map,
                                      const std::vector<SummedBox>& pieces,
                                      const TensorMemory& memory,
                                      const HashMeans& means) {
  wait_all(means.after, deadline_in(means.timeout));
  std::vector<std::size_t> on_host;
  std::vector<std::size_t> on_device;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const std::byte* const base = memory.base[pieces[i].tensor.index()];
    const bool is_host =
        means.copier == nullptr || base == nullptr || means.copier->place_of(base) == Place::kHost;
    (is_host ? on_host : on_device).push_back(i);
  }
  std::vector<std::uint64_t> sums(pieces.size());
  in_threads(std::ssize(on_host), means.num_threads, [&](std::int64_t i) {
    const std::size_t index = on_host[static_cast<std::size_t>(i)];
    const SummedBox& piece = pieces[index];
    const LogicalTensor& tensor = map.tensor(piece.tensor);
    sums[index] = sum_box(
        tensor, piece.box, view_of(tensor, piece, memory), memory.base[piece.tensor.index()]);
  });
  if (!on_device.empty()) {
    Fetcher(map, pieces, memory, means).run(on_device, sums);
  }
  return sums;
}

}  // namespace dynatrain
