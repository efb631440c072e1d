#pragma once

#include "dynatrain/base/strong_id.hpp"
#include "dynatrain/base/token.hpp"
#include "dynatrain/execution/run_sum.hpp"
#include "dynatrain/geometry/view.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {

/// What the sums of a batch are made of.
enum class SumTerm : std::uint8_t {
  kPart,        ///< part_sum_term of an element and its place in the part
  kFingerprint  ///< fingerprint_term of an element and its index in the whole tensor
};

/// One strided copy between two buffers. Offsets in `copy` are elements of `elem_bytes` from the
/// buffers' bases. With a sum_slot the copy also adds the sum of its elements' terms into
/// CopyBatch::sums[sum_slot], read back from dst; without dst (value -1) it only sums src.
/// Copies of a batch of fingerprints have a sum_slot and no dst. The dst side of `copy` is then the
/// elements' indices in the whole tensor.
struct CopyDescriptor {
  BufferId src;
  BufferId dst;
  std::int64_t elem_bytes = 1;
  /// Byte offsets that come on top of the element offsets (packed parts need not start at a
  /// multiple of an element).
  std::int64_t src_offset_bytes = 0;
  std::int64_t dst_offset_bytes = 0;
  StridedCopy copy;
  int sum_slot = -1;
  /// Index, within the part that sum_slot belongs to, of this copy's first element in the row-major
  /// order of the part's box; a part may be several copies.
  std::int64_t first_elem = 0;
  std::uint64_t sum_key = 0;  ///< of a fingerprint: stands for the tensor
};

/// When a batch was really worked on; equal instants for an empty one.
struct CopyTimes {
  std::chrono::steady_clock::time_point begin;
  std::chrono::steady_clock::time_point end;
  int stream = -1;  ///< of the copier, counted from 0; -1 where there are none
};

/// Where the bytes of a message or of staging lie, and so who reaches them.
enum class Place : std::uint8_t {
  kHost,   ///< host memory; a device copier takes it pinned, and reaches it too
  kDevice  ///< memory of the copier's device
};

/// Memory that a copier has taken, zeroed and touched; given back when this is destroyed.
class CopierMemory {
 public:
  CopierMemory() = default;
  CopierMemory(const CopierMemory&) = delete;
  CopierMemory& operator=(const CopierMemory&) = delete;
  virtual ~CopierMemory() = default;
  /// Page-aligned. Dereferenced by the host only for Place::kHost.
  [[nodiscard]] virtual std::byte* data() const = 0;
};

/// A few bytes that go from the copier's place to host memory taken from the copier.
struct ReadBack {
  const std::byte* src = nullptr;
  std::byte* host = nullptr;
  std::int64_t size_bytes = 0;
};

/// A batch that a copier has laid out ahead of its submission. Opaque; kept by the batch, and by
/// the copier while it is under way.
class PreparedBatch {
 public:
  PreparedBatch() = default;
  PreparedBatch(const PreparedBatch&) = delete;
  PreparedBatch& operator=(const PreparedBatch&) = delete;
  virtual ~PreparedBatch() = default;
  /// Memory of the copier's device that it takes.
  [[nodiscard]] virtual std::int64_t size_bytes() const = 0;
};

/// A batch of copies that is built once and submitted as a whole: `zeroed`, then `copies` in any
/// order, then `read_back`. Addresses in it are not owning, and of memory that the copier reaches.
struct CopyBatch {
  std::vector<CopyDescriptor> copies;
  SumTerm term = SumTerm::kPart;
  /// As many as the largest sum_slot + 1; sums are added, so that somebody zeroes them before.
  std::uint64_t* sums = nullptr;
  std::vector<std::span<std::byte>> zeroed;
  std::vector<ReadBack> read_back;
  /// Written before the token is done, unless null. Not owning.
  CopyTimes* times = nullptr;
  /// What Copier::prepare() made of this batch, which has not been changed since; null for none.
  std::shared_ptr<PreparedBatch> prepared;
};

/// Where bytes lie that are only read.
struct SourceAddress {
  const std::byte* base = nullptr;
  /// 0 where `base` is in this process. Else the number of the process that it is in; bytes come
  /// from there by `process_vm_readv`, which the CPU copier alone does.
  int process = 0;
  int rank = -1;  ///< whose memory it is, for messages; -1 where that is not known
};

/// The addresses behind buffer ids; patched in when a switch commits to run. Not owning: every
/// buffer must stay alive until the tokens of the operations that name it are done.
class AddressTable {
 public:
  struct Region {
    std::byte* base = nullptr;
    std::int64_t size_bytes = 0;
    bool present = false;
    int process = 0;  ///< as SourceAddress has it
    int rank = -1;    ///< likewise
  };

  void set(BufferId id, std::byte* base, std::int64_t size_bytes);
  /// Of a buffer that no copy writes.
  void set_source(BufferId id, SourceAddress source, std::int64_t size_bytes);
  /// Errors: InternalError when `id` has no address.
  [[nodiscard]] const Region& region(BufferId id) const {
    if (!has(id)) {
      throw_no_address(id);
    }
    return regions_[id.index()];
  }
  [[nodiscard]] std::byte* base(BufferId id) const { return region(id).base; }
  [[nodiscard]] std::int64_t size_bytes(BufferId id) const { return region(id).size_bytes; }
  [[nodiscard]] bool has(BufferId id) const {
    return id.value >= 0 && id.index() < regions_.size() && regions_[id.index()].present;
  }
  /// Tables of equal revision hold the same addresses, copies of a table too; each set() makes a
  /// new one.
  [[nodiscard]] std::uint64_t revision() const { return revision_; }

 private:
  [[noreturn]] static void throw_no_address(BufferId id);

  std::vector<Region> regions_;
  std::uint64_t revision_ = 0;
};

/// Port: copies boxes inside a rank (pack, unpack, local). Implemented in room 7.
class Copier {
 public:
  virtual ~Copier() = default;
  /// Takes memory for staging; slow, not for the middle of a run.
  /// Errors  DeviceError, std::bad_alloc.
  [[nodiscard]] virtual std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes,
                                                               Place place) = 0;
  /// Makes room for `num_batches` batches under way at a time, each of `num_copies` copies, so that
  /// submitting them takes no memory. Slow, not for the middle of a run; larger batches still work.
  /// Errors  as allocate().
  virtual void reserve(std::int64_t num_copies, int num_batches) = 0;
  /// Lays batches out ahead of their submission: what comes back, in their order, goes into
  /// CopyBatch::prepared; null where the copier has nothing to gain. Slow, not for the middle of a
  /// run. Submitting such a batch to the same addresses then costs no more than a launch; for other
  /// addresses it is laid out anew.
  /// Errors  InternalError as submit(); DeviceError, std::bad_alloc. Nothing was submitted.
  [[nodiscard]] virtual std::vector<std::shared_ptr<PreparedBatch>> prepare(
      std::span<const CopyBatch* const> batches, const AddressTable& /*addresses*/) {
    return std::vector<std::shared_ptr<PreparedBatch>>(batches.size());
  }
  /// Where memory lies, whoever allocated it. Errors: DeviceError.
  [[nodiscard]] virtual Place place_of(const std::byte* memory) const = 0;
  /// Starts the batch after all of `after` are done and returns at once.
  /// Ownership  the batch and the table are read until the token is done; the caller keeps them.
  /// Threads    one caller at a time; order between batches is given by `after` alone.
  /// Errors     through the token: what an `after` failed with, or InternalError for a copy that
  ///            would leave its buffer.
  virtual Token submit(const CopyBatch& batch,
                       const AddressTable& addresses,
                       std::span<const Token> after) = 0;
};

}  // namespace dynatrain
