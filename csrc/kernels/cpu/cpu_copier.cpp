#include "dynatrain/kernels/cpu_copier.hpp"

#include "kernels/cpu/job_queue.hpp"
#include <exception>
#include <utility>

namespace dynatrain {
namespace {

class CpuCopier final : public Copier {
 public:
  explicit CpuCopier(int num_threads) : num_threads_(num_threads), queue_(num_threads) {}

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
