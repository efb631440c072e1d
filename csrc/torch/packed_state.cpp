#include "torch/packed_state.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/run_sum.hpp"

#include "execution/draining.hpp"
#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <sys/mman.h>

namespace dynatrain {
namespace {

constexpr std::int64_t kWordBytes = 8;

/// A batch of copies and what its copier reads until it has ended.
struct PackingCopies {
  AddressTable addresses;
  CopyBatch batch;
};

/// A mesh says that a shard is dense; one that is not would be copied wrongly.
void check_dense(const Descriptor& descriptor, const LiveMemory& memory) {
  if (descriptor.mesh.ranks.empty() || num_elements(memory.local_shape) == 0 ||
      is_contiguous(memory.local_shape, memory.local_strides)) {
    return;
  }
  throw LayoutError("layout: cannot pack '" + descriptor.tensor.name + "'\n  its shard " +
                    memory.local_shape.to_string() + " has strides " +
                    memory.local_strides.to_string() +
                    "\n  expected a dense one, as its mesh says\n  nothing was copied\n"
                    "  keep shards of DTensors contiguous");
}

}  // namespace

HostRun::HostRun(std::int64_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) {
    return;
  }
  const auto size = static_cast<std::size_t>(size_bytes);
  void* const taken =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (taken == MAP_FAILED) {  // NOLINT(performance-no-int-to-ptr): how mmap says it
    throw std::bad_alloc();
  }
  data_ = static_cast<std::byte*>(taken);
  static_cast<void>(madvise(taken, size, MADV_HUGEPAGE));  // where the system has them
  std::memset(taken, 0, size);
}

HostRun::~HostRun() {
  if (data_ != nullptr && !is_given_up_) {
    munmap(data_, static_cast<std::size_t>(size_bytes_));
  }
}

std::uint64_t HostRun::sum(std::int64_t begin, std::int64_t end) const {
  if (begin < 0 || end < begin || end > size_bytes_ || begin % kWordBytes != 0 ||
      end % kWordBytes != 0) {
    throw LayoutError("layout: cannot sum the bytes [" + std::to_string(begin) + ", " +
                      std::to_string(end) + ") of a run of " + std::to_string(size_bytes_) +
                      "\n  expected multiples of 8 inside of it\n  nothing was read");
  }
  return part_sum_run({data_ + begin, kWordBytes, 1, (end - begin) / kWordBytes}, 0);
}

PackedState::PackedState(const StateTable& table, int rank)
    : packing_(make_packing(table.descriptors(), rank)) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    check_dense(table.descriptors()[i], table.memory(i));
    memory_.push_back(table.memory(i));
    elem_bytes_.push_back(table.descriptors()[i].tensor.dtype.size_bytes);
  }
}

void PackedState::copy(Copier& copier,
                       HostRun& run,
                       std::span<const Token> after,
                       Deadline deadline,
                       std::int64_t begin_bytes) const {
  if (begin_bytes < 0 || run.size_bytes() - begin_bytes < size_bytes()) {
    throw LayoutError("layout: a state of " + std::to_string(size_bytes()) +
                      " bytes does not fit a run of " + std::to_string(run.size_bytes()) +
                      " from byte " + std::to_string(begin_bytes) +
                      " on\n  nothing was copied\n  make the run as long");
  }
  auto work = std::make_unique<PackingCopies>();
  const BufferId packed{static_cast<std::int64_t>(memory_.size())};
  for (std::size_t i = 0; i < memory_.size(); ++i) {
    work->addresses.set(
        BufferId{static_cast<std::int64_t>(i)}, memory_[i].base, memory_[i].size_bytes);
  }
  work->addresses.set(packed, run.data() + begin_bytes, run.size_bytes() - begin_bytes);
  for (const PackedPiece& piece : packing_.pieces) {
    CopyDescriptor copy;
    copy.src = BufferId{static_cast<std::int64_t>(piece.index)};
    copy.dst = packed;
    copy.elem_bytes = elem_bytes_[piece.index];
    copy.copy = collapse(piece.box.shape(), piece.live, piece.packed);
    work->batch.copies.push_back(copy);
  }
  const std::array token{copier.submit(work->batch, work->addresses, after)};
  try {
    wait_all(token, deadline);
  } catch (...) {
    if (!drain(token, deadline_in(kDrainTime))) {
      static_cast<void>(work.release());  // NOLINT(bugprone-unused-return-value): still read
      run.give_up();
    }
    throw;
  }
}

StateTable packed_table(std::span<const PackedShare> shares,
                        const PackedBuffer& buffer,
                        const std::set<std::string>& on_host) {
  StateTable table;
  for (Descriptor& descriptor : join_packed(shares)) {
    LiveMemory memory;
    if (descriptor.fragments.empty()) {
      memory.local_shape = descriptor.tensor.shape;
      memory.local_strides = row_major_strides(descriptor.tensor.shape);
    } else {
      const std::int64_t itemsize = descriptor.tensor.dtype.size_bytes;
      const bool is_host = buffer.device == nullptr || on_host.contains(descriptor.tensor.name);
      memory.base = is_host ? buffer.host : buffer.device;
      memory.local_shape = Shape{buffer.size_bytes / itemsize};
      memory.local_strides = Strides{1};
      memory.size_bytes = buffer.size_bytes / itemsize * itemsize;
    }
    table.add(std::move(descriptor), memory);
  }
  return table;
}

}  // namespace dynatrain
