#include "kernels/cpu/copy_job.hpp"

#include "dynatrain/base/checked.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace dynatrain {
namespace {

/// What a copy costs beside its bytes, so that ten thousand tiny boxes are many chunks too.
constexpr std::int64_t kCopyCost = 64;
/// Chunks are large enough to be worth taking and small enough to spread over the threads.
constexpr std::int64_t kMinChunkCost = 64LL << 10U;
constexpr std::int64_t kMaxChunkCost = 1LL << 20U;
/// A sum reads back what was just written; pieces of this size are still in the cache.
constexpr std::int64_t kPieceBytes = 64LL << 10U;

}  // namespace

CopyJob::CopyJob(const CopyBatch& batch,
                 const AddressTable& addresses,
                 std::span<const Token> after,
                 int num_threads)
    : batch_(batch) {
  bound_.reserve(batch.copies.size());
  first_cost_.reserve(batch.copies.size() + 1);
  std::int64_t cost = 0;
  for (const CopyDescriptor& copy : batch.copies) {
    bound_.push_back(bind_copy(copy, batch, addresses));
    first_cost_.push_back(cost);
    cost += num_elements_of(copy) * copy.elem_bytes + kCopyCost;
  }
  first_cost_.push_back(cost);
  chunk_cost_ = std::clamp(ceil_div(cost, 8LL * num_threads), kMinChunkCost, kMaxChunkCost);
  num_chunks_ = std::max<std::int64_t>(1, ceil_div(cost, chunk_cost_));
  chunks_left_ = num_chunks_;
  for (const Token& token : after) {
    if (token.completion() != nullptr) {
      after_.push_back(token);
    }
  }
}

void CopyJob::begin() {
  for (const std::span<std::byte> range : batch_.zeroed) {
    std::memset(range.data(), 0, range.size());
  }
}

void CopyJob::run_chunk(std::int64_t chunk) noexcept {
  try {
    run_copies(chunk);
  } catch (...) {
    if (!has_failed_.test_and_set()) {
      error_ = std::current_exception();
    }
  }
  if (chunks_left_.fetch_sub(1) == 1) {
    end();
  }
}

void CopyJob::run_copies(std::int64_t chunk) {
  if (chunks_begun_.fetch_add(1) == 0 && batch_.times != nullptr) {
    batch_.times->begin = std::chrono::steady_clock::now();
  }
  const Interval costs{chunk * chunk_cost_,
                       std::min((chunk + 1) * chunk_cost_, first_cost_.back())};
  const auto first = std::upper_bound(first_cost_.begin(), first_cost_.end(), costs.begin);
  for (auto index = static_cast<std::size_t>(first - first_cost_.begin()) - 1;
       index < bound_.size() && first_cost_[index] < costs.end;
       ++index) {
    run_copy(index, costs);
  }
}

void CopyJob::end() noexcept {
  for (const ReadBack& read : batch_.read_back) {
    std::memcpy(read.host, read.src, static_cast<std::size_t>(read.size_bytes));
  }
  if (batch_.times != nullptr) {
    batch_.times->end = std::chrono::steady_clock::now();
  }
  completion_->fail(error_);  // well, where there is none
}

void CopyJob::run_copy(std::size_t index, Interval costs) {
  const CopyDescriptor& copy = batch_.copies[index];
  const BoundCopy& bound = bound_[index];
  // The chunk owns the elements whose first byte lies in its costs.
  const auto elems_before = [&](std::int64_t at) {
    const std::int64_t bytes = std::max<std::int64_t>(0, at - first_cost_[index]);
    return std::min(num_elements_of(copy), ceil_div(bytes, copy.elem_bytes));
  };
  const Interval elems{elems_before(costs.begin), elems_before(costs.end)};
  if (copy.sum_slot < 0) {
    if (bound.dst != nullptr && !elems.empty()) {
      copy_range(bound, elems);
    }
    return;
  }
  const std::int64_t piece_elems = std::max<std::int64_t>(1, kPieceBytes / copy.elem_bytes);
  std::uint64_t sum = 0;
  for (std::int64_t at = elems.begin; at < elems.end; at += piece_elems) {
    const Interval piece{at, std::min(at + piece_elems, elems.end)};
    if (bound.dst != nullptr) {
      copy_range(bound, piece);
    }
    sum +=
        batch_.term == SumTerm::kPart ? sum_range(bound, piece) : fingerprint_range(bound, piece);
  }
  std::atomic_ref<std::uint64_t>(batch_.sums[copy.sum_slot]).fetch_add(sum);
}

bool CopyJob::is_ready() const {
  return std::all_of(after_.begin(), after_.end(), [](const Token& t) { return t.done(); });
}

Token CopyJob::first_pending() const {
  const auto pending =
      std::find_if(after_.begin(), after_.end(), [](const Token& t) { return !t.done(); });
  return pending == after_.end() ? Token() : *pending;
}

void CopyJob::check_after() const {
  wait_all(after_, std::chrono::steady_clock::now());
}

}  // namespace dynatrain
