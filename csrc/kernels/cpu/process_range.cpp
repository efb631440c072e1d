#include "kernels/cpu/process_range.hpp"

#include "base/other_process.hpp"
#include "kernels/cpu/for_each_run.hpp"
#include "kernels/cpu/strided_range.hpp"
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace dynatrain {
namespace {

/// As much of the source as is read at once; on the stack, and within a core's first caches.
constexpr std::int64_t kBlockBytes = 64LL << 10U;
/// A further piece of a call costs as much as copying this (0.5 microseconds): less than that
/// between two runs is read with them.
constexpr std::int64_t kGapBytes = 4LL << 10U;
/// Pieces of one call: enough for its own cost to vanish.
constexpr std::size_t kPieces = 64;
static_assert(kPieces <= kMaxReadPieces);

/// Reads runs of one copy, in its row-major order, as few calls of the system.
class ProcessReader {
 public:
  // NOLINTNEXTLINE(*-member-init): memory_ is written before it is read
  explicit ProcessReader(const BoundCopy& bound)
      : bound_(bound),
        size_(bound.descriptor->elem_bytes),
        src_step_(bound.descriptor->copy.src_strides[last_dim()]),
        is_plain_(src_step_ == 1 && bound.descriptor->copy.dst_strides[last_dim()] == 1) {}

  /// Of `count` elements from `at` in row-major order; `src` and `dst` count elements from the
  /// bases.
  void add(std::int64_t src, std::int64_t dst, std::int64_t count, std::int64_t at) {
    const std::int64_t most = is_plain_ ? count : std::max<std::int64_t>(1, elems_in_block());
    for (std::int64_t done = 0; done < count; done += most) {
      const std::int64_t taken = std::min(most, count - done);
      const std::int64_t begin = (src + done * src_step_) * size_;
      add_run({.src = {begin, begin + ((taken - 1) * src_step_ + 1) * size_},
               .dst = dst + done * bound_.descriptor->copy.dst_strides[last_dim()],
               .elems = {at + done, at + done + taken}});
    }
  }

  void flush() {
    end_block();
    read_pieces();
  }

 private:
  /// Runs that are read together: the bytes of the source that they span, their elements.
  struct Block {
    Interval src;
    std::int64_t dst = 0;  ///< of the first, in elements
    Interval elems;
  };

  [[nodiscard]] OtherProcess owner() const {
    return {.number = bound_.process, .rank = bound_.rank};
  }
  [[nodiscard]] int last_dim() const { return bound_.descriptor->copy.extents.rank() - 1; }
  [[nodiscard]] std::int64_t elems_in_block() const {
    return src_step_ == 0 ? kBlockBytes / size_ : (kBlockBytes / size_ - 1) / src_step_ + 1;
  }

  void add_run(const Block& run) {
    if (num_runs_ > 0) {
      const Interval both{std::min(block_.src.begin, run.src.begin),
                          std::max(block_.src.end, run.src.end)};
      if (both.size() <= kBlockBytes &&
          both.size() <= block_.src.size() + run.src.size() + kGapBytes) {
        block_.src = both;
        block_.elems.end = run.elems.end;
        ++num_runs_;
        return;
      }
      end_block();
    }
    block_ = run;
    num_runs_ = 1;
  }

  void end_block() {
    if (num_runs_ == 1 && (is_plain_ || block_.elems.size() == 1)) {
      own_[num_pieces_] = {.iov_base = bound_.dst + block_.dst * size_,
                           .iov_len = static_cast<std::size_t>(block_.src.size())};
      theirs_[num_pieces_] = theirs(block_.src);
      if (++num_pieces_ == kPieces) {
        read_pieces();
      }
    } else if (num_runs_ > 0) {
      scatter();
    }
    num_runs_ = 0;
  }

  [[nodiscard]] iovec theirs(Interval bytes) const {
    return {.iov_base = const_cast<std::byte*>(bound_.src + bytes.begin),
            .iov_len = static_cast<std::size_t>(bytes.size())};
  }

  void scatter() {
    const iovec own{.iov_base = memory_.data(),
                    .iov_len = static_cast<std::size_t>(block_.src.size())};
    const iovec source = theirs(block_.src);
    read_peer(owner(), {&own, 1}, {&source, 1});
    BoundCopy here = bound_;
    here.process = 0;
    here.src = memory_.data() - block_.src.begin;  // where element 0 would be
    copy_range(here, block_.elems);
  }

  void read_pieces() {
    if (num_pieces_ > 0) {
      read_peer(owner(), {own_.data(), num_pieces_}, {theirs_.data(), num_pieces_});
      num_pieces_ = 0;
    }
  }

  const BoundCopy& bound_;
  std::int64_t size_;
  std::int64_t src_step_;  ///< of a run, in elements
  bool is_plain_;          ///< runs are contiguous on both sides
  Block block_;
  int num_runs_ = 0;  ///< of block_
  std::size_t num_pieces_ = 0;
  std::array<iovec, kPieces> own_{};
  std::array<iovec, kPieces> theirs_{};
  std::array<std::byte, kBlockBytes> memory_;
};

}  // namespace

void copy_process_range(const BoundCopy& bound, Interval elems) {
  ProcessReader reader(bound);
  for_each_run(bound.descriptor->copy,
               elems,
               [&](std::int64_t src, std::int64_t dst, std::int64_t count, std::int64_t at) {
                 reader.add(src, dst, count, at);
               });
  reader.flush();
}

}  // namespace dynatrain
