#include "dynatrain/kernels/cpu_copier.hpp"

#include "dynatrain/base/error.hpp"

#include "kernels/cpu/job_queue.hpp"
#include <cstring>
#include <exception>
#include <new>
#include <utility>

namespace dynatrain {
namespace {

class HostMemory final : public CopierMemory {
 public:
  explicit HostMemory(std::int64_t size_bytes)
      : data_(static_cast<std::byte*>(
            ::operator new[](static_cast<std::size_t>(size_bytes), kPage))) {
    std::memset(data_.get(), 0, static_cast<std::size_t>(size_bytes));
  }
  [[nodiscard]] std::byte* data() const override { return data_.get(); }

 private:
  static constexpr std::align_val_t kPage{4096};
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, kPage); }
  };
  std::unique_ptr<std::byte[], Free> data_;
};

class CpuCopier final : public Copier {
 public:
  explicit CpuCopier(int num_threads) : num_threads_(num_threads), queue_(num_threads) {}

  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place place) override {
    DYNATRAIN_CHECK(place == Place::kHost, "kernels: the CPU copier has no device memory");
    return std::make_unique<HostMemory>(size_bytes);
  }

  void reserve(std::int64_t /*num_copies*/, int /*num_batches*/) override {}  // needs none
  [[nodiscard]] Place place_of(const std::byte* /*memory*/) const override { return Place::kHost; }

  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    try {
      auto job = std::make_shared<CopyJob>(batch, addresses, after, num_threads_);
      Token token(job->completion());
      queue_.add(std::move(job));
      return token;
    } catch (...) {
      auto failed = std::make_shared<HostCompletion>();
      failed->fail(std::current_exception());
      return Token(std::move(failed));
    }
  }

 private:
  int num_threads_;
  JobQueue queue_;
};

}  // namespace

std::unique_ptr<Copier> make_cpu_copier(int num_threads) {
  return std::make_unique<CpuCopier>(num_threads);
}

}  // namespace dynatrain
