#include "kernels/cuda/stream_copier.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/device_completion.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <iterator>
#include <utility>

namespace dynatrain {
namespace {

/// How long the watcher trusts that no other batch than the oldest has become ready.
constexpr std::chrono::microseconds kWatchSlice{200};
/// What is on a stream when a copier goes has this long to end.
constexpr std::chrono::seconds kDrainTime{30};
/// Of a table in memory that it shares with others.
constexpr std::int64_t kTableAlignment = 256;

/// The part of some memory from an offset on.
class TableSlice final : public TableMemory {
 public:
  TableSlice(std::shared_ptr<TableMemory> whole, std::int64_t offset_bytes)
      : whole_(std::move(whole)), offset_bytes_(offset_bytes) {}
  [[nodiscard]] std::byte* host() const override { return whole_->host() + offset_bytes_; }
  [[nodiscard]] std::byte* device() const override { return whole_->device() + offset_bytes_; }
  [[nodiscard]] std::int64_t size_bytes() const override {
    return whole_->size_bytes() - offset_bytes_;
  }

 private:
  std::shared_ptr<TableMemory> whole_;
  std::int64_t offset_bytes_;
};

}  // namespace

StreamCopier::StreamCopier(std::unique_ptr<StreamDevice> device)
    : builder_({.num_processors = device->num_processors()}),
      lanes_(std::make_shared<CopyLanes>(std::move(device))),
      watcher_(start_thread("watches waiting copies", [this] { watch(); })) {}

StreamCopier::~StreamCopier() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  has_new_.notify_all();
  watcher_.join();
  lanes_->drain(deadline_in(kDrainTime));
}

void StreamCopier::reserve(std::int64_t num_copies, int num_batches) {
  lanes_->reserve(usual_table_bytes(num_copies), num_batches);
}

std::unique_ptr<CopierMemory> StreamCopier::allocate(std::int64_t size_bytes, Place place) {
  return lanes_->device().allocate(size_bytes, place);
}

Place StreamCopier::place_of(const std::byte* memory) const {
  const bool is_device = lanes_->device().adds_to(reinterpret_cast<const std::uint64_t*>(memory));
  return is_device ? Place::kDevice : Place::kHost;
}

Token StreamCopier::submit(const CopyBatch& batch,
                           const AddressTable& addresses,
                           std::span<const Token> after) {
  try {
    const std::shared_ptr<LaneBatch> laid_out = lay_out(batch, addresses);
    Token token(std::make_shared<BatchCompletion>(lanes_, laid_out));
    if (!try_launch(laid_out, after)) {
      const std::lock_guard lock(mutex_);
      new_.push_back({.batch = laid_out, .after = {after.begin(), after.end()}});
      has_new_.notify_one();
    }
    return token;
  } catch (...) {
    auto failed = std::make_shared<HostCompletion>();
    failed->fail(std::current_exception());
    return Token(std::move(failed));
  }
}

std::vector<std::shared_ptr<PreparedBatch>> StreamCopier::prepare(
    std::span<const CopyBatch* const> batches, const AddressTable& addresses) {
  std::vector<std::shared_ptr<PreparedBatch>> prepared;
  std::vector<std::byte> tables;
  std::vector<std::pair<PreparedTable*, std::int64_t>> places;
  for (const CopyBatch* const batch : batches) {
    auto table = std::make_shared<PreparedTable>();
    table->copier = this;
    table->revision = addresses.revision();
    table->parts = parts_of(*batch, addresses);
    if (table->parts.size.num_units > 0) {
      const auto place = ceil_div(std::ssize(tables), kTableAlignment) * kTableAlignment;
      tables.resize(static_cast<std::size_t>(place + table->parts.size.layout.total_bytes));
      builder_.write(tables.data() + place, table->parts.device_sums != nullptr);
      places.emplace_back(table.get(), place);
    }
    prepared.push_back(std::move(table));
  }
  if (places.empty()) {
    return prepared;
  }
  const std::shared_ptr<TableMemory> memory = lanes_->take_memory(std::ssize(tables));
  std::ranges::copy(tables, memory->host());
  lanes_->device().upload(*memory, std::ssize(tables));
  for (const auto& [table, place] : places) {
    table->memory = std::make_shared<TableSlice>(memory, place);
  }
  return prepared;
}

std::shared_ptr<PreparedTable> StreamCopier::take_prepared(const CopyBatch& batch,
                                                           const AddressTable& addresses) {
  auto table = std::dynamic_pointer_cast<PreparedTable>(batch.prepared);
  const bool is_usable = table != nullptr && table->copier == this &&
                         table->revision == addresses.revision() && lanes_->take(*table);
  return is_usable ? table : nullptr;
}

std::shared_ptr<LaneBatch> StreamCopier::lay_out(const CopyBatch& batch,
                                                 const AddressTable& addresses) {
  auto laid_out = std::make_shared<LaneBatch>();
  laid_out->times = batch.times;
  laid_out->zeroed = batch.zeroed;
  laid_out->prepared = take_prepared(batch, addresses);
  if (laid_out->prepared != nullptr) {
    laid_out->parts = laid_out->prepared->parts;
    laid_out->memory = laid_out->prepared->memory;
    return laid_out;
  }
  laid_out->parts = parts_of(batch, addresses);
  if (laid_out->parts.size.num_units > 0) {
    laid_out->memory = lanes_->take_memory(laid_out->parts.size.layout.total_bytes);
    builder_.write(laid_out->memory->host(), laid_out->parts.device_sums != nullptr);
  }
  return laid_out;
}

TableParts StreamCopier::parts_of(const CopyBatch& batch, const AddressTable& addresses) {
  TableParts parts;
  parts.size = builder_.build(batch, addresses);
  for (const ReadBack& read : batch.read_back) {
    const bool is_device =
        lanes_->device().adds_to(reinterpret_cast<const std::uint64_t*>(read.src));
    (is_device ? parts.device_reads : parts.host_reads).push_back(read);
  }
  if (parts.size.num_groups > 0) {
    const bool is_direct = lanes_->device().adds_to(batch.sums);
    (is_direct ? parts.device_sums : parts.host_sums) = batch.sums;
  }
  return parts;
}

bool StreamCopier::try_launch(const std::shared_ptr<LaneBatch>& batch,
                              std::span<const Token> after) {
  std::vector<Token> pending;
  for (const Token& token : after) {
    if (token.done()) {
      try {
        token.wait(std::chrono::steady_clock::now());
      } catch (...) {
        lanes_->fail(*batch, std::current_exception());
        return true;
      }
    } else if (on_stream(token) != nullptr) {
      pending.push_back(token);
    } else {
      return false;
    }
  }
  return lanes_->launch(batch, pending);
}

Token StreamCopier::first_pending(const std::vector<Waiting>& waiting) {
  if (waiting.empty()) {
    return {};
  }
  const std::vector<Token>& after = waiting.front().after;
  const auto pending =
      std::find_if(after.begin(), after.end(), [](const Token& token) { return !token.done(); });
  return pending == after.end() ? Token() : *pending;
}

void StreamCopier::watch() {
  std::vector<Waiting> waiting;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      has_new_.wait(lock, [&] { return is_over_ || !new_.empty() || !waiting.empty(); });
      std::move(new_.begin(), new_.end(), std::back_inserter(waiting));
      new_.clear();
      if (is_over_) {
        break;
      }
    }
    std::erase_if(waiting, [this](const Waiting& w) { return try_launch(w.batch, w.after); });
    if (waiting.empty()) {
      continue;
    }
    const Token pending = first_pending(waiting);
    if (pending.done()) {
      std::this_thread::sleep_for(kWatchSlice);  // it waits for a lane
      continue;
    }
    try {
      pending.wait(std::chrono::steady_clock::now() + kWatchSlice);
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
      // Too early, or failed: try_launch looks at the token again and passes a failure on.
    }
  }
  for (const Waiting& w : waiting) {
    lanes_->fail(*w.batch,
                 std::make_exception_ptr(InternalError(
                     "kernels: the copier was destroyed while a batch still waited for its tokens"
                     "\n  the batch was not started\n  please report this as a bug of dynatrain")));
  }
}

}  // namespace dynatrain
