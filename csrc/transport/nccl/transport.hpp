#pragma once

#include "transport/nccl/completion.hpp"
#include "transport/nccl/world.hpp"
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

namespace dynatrain {

/// One rank's port over a NCCL world that is connected. See dynatrain/transport/nccl.hpp.
class NcclTransport final : public Transport {
 public:
  explicit NcclTransport(std::shared_ptr<NcclWorld> world);
  ~NcclTransport() override;
  NcclTransport(const NcclTransport&) = delete;
  NcclTransport& operator=(const NcclTransport&) = delete;

  [[nodiscard]] int rank() const override { return world_->rank(); }
  [[nodiscard]] int size() const override { return world_->size(); }
  [[nodiscard]] Place message_place() const override { return Place::kDevice; }
  /// With NcclOptions::register_staging; null without.
  [[nodiscard]] std::unique_ptr<CopierMemory> allocate_messages(std::int64_t size_bytes) override;
  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override;
  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override;
  /// Both tokens are the same one: the groups hold sends and receives.
  ExchangeTokens exchange(const Exchange& step,
                          std::span<const Token> after,
                          Deadline deadline) override;
  void abort(std::string_view reason) noexcept override;

 private:
  void post(const Exchange& step,
            std::span<const Token> after,
            Deadline deadline,
            NcclCompletion& completion);
  void check_messages(std::span<const WireMessage> messages) const;
  void order(std::span<const Token> after, Deadline deadline);

  std::shared_ptr<NcclWorld> world_;
  std::mutex posting_;
};

/// Connects a rank over these libraries. Errors: as make_nccl_transport().
[[nodiscard]] std::unique_ptr<NcclTransport> connect_nccl(const NcclLibraries& libraries,
                                                          const NcclInit& place,
                                                          const NcclOptions& options,
                                                          Store& store,
                                                          Deadline deadline);

}  // namespace dynatrain
