#pragma once

#include "transport/nccl/groups.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// One call that a rank made, for a checker that compares the logs of all ranks.
struct NcclCall {
  enum class Kind : std::uint8_t { kGroupStart, kSend, kRecv, kGroupEnd };
  Kind kind = Kind::kGroupStart;
  int peer = -1;
  std::int64_t size_bytes = 0;
  std::int64_t exchange = 0;  ///< how many exchanges the rank had posted before
  int window = 0;
  std::int64_t slice = 0;
};

/// The calls of one rank, in order; kept on request, as a long job makes many.
class CallLog {
 public:
  explicit CallLog(bool is_kept) : is_kept_(is_kept) {}

  void begin_exchange() { ++exchange_; }
  void add(NcclCall::Kind kind, const OpGroup& group, const GroupOp& op) {
    if (is_kept_) {
      calls_.push_back({.kind = kind,
                        .peer = op.peer,
                        .size_bytes = op.size_bytes,
                        .exchange = exchange_,
                        .window = group.window,
                        .slice = group.slice});
    }
  }
  [[nodiscard]] const std::vector<NcclCall>& calls() const { return calls_; }

 private:
  bool is_kept_;
  std::int64_t exchange_ = -1;
  std::vector<NcclCall> calls_;
};

}  // namespace dynatrain
