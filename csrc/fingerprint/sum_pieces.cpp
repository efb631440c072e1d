#include "fingerprint/sum_pieces.hpp"

#include "execution/draining.hpp"
#include "fingerprint/in_threads.hpp"
#include <array>
#include <memory>
#include <utility>

namespace dynatrain {
namespace {

/// One batch that sums pieces where they lie, and what it is given until it ends.
struct DeviceSums {
  CopyBatch batch;
  AddressTable addresses;
  std::vector<std::uint64_t> sums;  ///< of each copy
};

void add_piece(DeviceSums& work,
               const LogicalTensor& tensor,
               const SummedBox& piece,
               const TensorMemory& memory) {
  const BufferId buffer(piece.tensor.value);
  const Strides strides = row_major_strides(tensor.shape);
  View indices{.offset_elems = 0, .strides = strides};
  for (int d = 0; d < piece.box.rank(); ++d) {
    indices.offset_elems += piece.box.begin[d] * strides[d];
  }
  work.addresses.set(
      buffer, memory.base[piece.tensor.index()], memory.size_bytes[piece.tensor.index()]);
  work.batch.copies.push_back(
      {.src = buffer,
       .dst = BufferId(-1),
       .elem_bytes = tensor.dtype.size_bytes,
       .copy = collapse(piece.box.shape(), view_of(tensor, piece, memory), indices),
       .sum_slot = static_cast<int>(work.batch.copies.size()),
       .sum_key = piece.key});
}

/// Sums the pieces with the given indices on the device where they lie.
void sum_on_device(const ShardMap& map,
                   const std::vector<SummedBox>& pieces,
                   const std::vector<std::size_t>& indices,
                   const TensorMemory& memory,
                   const HashMeans& means,
                   std::vector<std::uint64_t>& sums) {
  auto work = std::make_unique<DeviceSums>();
  work->batch.term = SumTerm::kFingerprint;
  for (const std::size_t index : indices) {
    add_piece(*work, map.tensor(pieces[index].tensor), pieces[index], memory);
  }
  work->sums.resize(indices.size());
  work->batch.sums = work->sums.data();
  const std::array token{means.copier->submit(work->batch, work->addresses, {})};
  try {
    wait_all(token, deadline_in(means.timeout));
  } catch (...) {
    if (!drain(token, deadline_in(kDrainTime))) {
      static_cast<void>(work.release());  // NOLINT(bugprone-unused-return-value): still written
    }
    throw;
  }
  for (std::size_t i = 0; i < indices.size(); ++i) {
    sums[indices[i]] = work->sums[i];
  }
}

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
    sums[index] =
        sum_box(tensor, piece, view_of(tensor, piece, memory), memory.base[piece.tensor.index()]);
  });
  if (!on_device.empty()) {
    sum_on_device(map, pieces, on_device, memory, means, sums);
  }
  return sums;
}

}  // namespace dynatrain
