#include "dynatrain/base/error.hpp"

#include "transport/nccl/library.hpp"
#include "transport/nccl/loaded.hpp"
#include "transport/nccl/nccl_calls.hpp"
#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

namespace dynatrain {
namespace {

/// Calls that 2.27 does not have and that later versions of this transport may use; reported only.
constexpr std::array kNewerCalls{"ncclCommShrink",
                                 "ncclCommRevoke",
                                 "ncclCommGrow",
                                 "ncclCommWindowRegister",
                                 "ncclCommSuspend"};

static_assert(sizeof(NcclId) == sizeof(NcclUniqueId));

NcclResult to_result(NcclStatus result) {
  return static_cast<NcclResult>(result);
}

std::string version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

struct Found {
  NcclCalls functions;
  NcclReport report;
};

/// Looks for the functions of registered memory, without which everything else still works.
std::string find_registration(const Library& library, NcclCalls& f) {
  std::string missing;
  const auto find = [&](auto*& function, const char* symbol) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(library.find(symbol));
    if (function == nullptr) {
      missing += (missing.empty() ? "it has no " : ", ") + std::string(symbol);
    }
  };
  find(f.mem_alloc, "ncclMemAlloc");
  find(f.mem_free, "ncclMemFree");
  find(f.comm_register, "ncclCommRegister");
  find(f.comm_deregister, "ncclCommDeregister");
  return missing;
}

Found find_nccl() {
  Library library({"libnccl.so.2"});
  Found found;
  NcclCalls& f = found.functions;
  library.require(f.get_version, "ncclGetVersion");
  library.require(f.get_unique_id, "ncclGetUniqueId");
  library.require(f.comm_init_rank_config, "ncclCommInitRankConfig");
  library.require(f.comm_get_async_error, "ncclCommGetAsyncError");
  library.require(f.get_error_string, "ncclGetErrorString");
  library.require(f.get_last_error, "ncclGetLastError");
  library.require(f.group_start, "ncclGroupStart");
  library.require(f.group_end, "ncclGroupEnd");
  library.require(f.send, "ncclSend");
  library.require(f.recv, "ncclRecv");
  library.require(f.comm_finalize, "ncclCommFinalize");
  library.require(f.comm_destroy, "ncclCommDestroy");
  library.require(f.comm_abort, "ncclCommAbort");
  NcclReport& report = found.report;
  int version = 0;
  if (f.get_version != nullptr && f.get_version(&version) == kNcclSuccess) {
    report.version = version_text(version);
  }
  if (!library.problem().empty()) {
    report.problem = "libnccl.so.2 cannot be used: " + library.problem();
  } else if (version < kOldestNcclVersion) {
    report.problem = "libnccl.so.2 is version " + report.version + ", expected " +
                     version_text(kOldestNcclVersion) + " or later";
  }
  report.registration_problem = find_registration(library, f);
  for (const char* const call : kNewerCalls) {
    if (library.find(call) != nullptr) {
      report.newer_calls.emplace_back(call);
    }
  }
  return found;
}

class LoadedNccl final : public NcclApi {
 public:
  LoadedNccl(const NcclCalls& functions, std::string registration_problem)
      : nccl_(functions), registration_problem_(std::move(registration_problem)) {}

  NcclAnswer<NcclId> get_unique_id() override {
    NcclUniqueId id{};
    NcclAnswer<NcclId> answer{.result = to_result(nccl_.get_unique_id(&id)), .value = {}};
    std::memcpy(answer.value.data(), &id, sizeof(id));
    return answer;
  }
  NcclAnswer<NcclComm> comm_init(const NcclInit& init) override {
    NcclUniqueId id{};
    std::memcpy(&id, init.id.data(), sizeof(id));
    NcclConfig config;
    config.blocking = 0;
    config.max_ctas = init.max_channels;
    NcclComm comm = nullptr;
    const NcclStatus result = nccl_.comm_init_rank_config(&comm, init.size, id, init.rank, &config);
    return {.result = to_result(result), .value = comm};
  }
  NcclResult async_error(NcclComm comm) override {
    NcclStatus state = kNcclSuccess;
    const NcclStatus result = nccl_.comm_get_async_error(comm, &state);
    return to_result(result == kNcclSuccess ? state : result);
  }
  std::string describe(NcclResult result, NcclComm comm) override {
    std::string text = nccl_.get_error_string(static_cast<NcclStatus>(result));
    const char* const last = nccl_.get_last_error(comm);
    if (last != nullptr && *last != '\0') {
      text += std::string(": ") + last;
    }
    return text;
  }
  NcclResult group_start() override { return to_result(nccl_.group_start()); }
  NcclResult group_end() override { return to_result(nccl_.group_end()); }
  NcclResult send(const std::byte* data,
                  std::int64_t size_bytes,
                  int peer,
                  NcclComm comm,
                  void* stream) override {
    const auto count = static_cast<std::size_t>(size_bytes);
    return to_result(nccl_.send(data, count, kNcclInt8, peer, comm, stream));
  }
  NcclResult recv(
      std::byte* data, std::int64_t size_bytes, int peer, NcclComm comm, void* stream) override {
    const auto count = static_cast<std::size_t>(size_bytes);
    return to_result(nccl_.recv(data, count, kNcclInt8, peer, comm, stream));
  }
  [[nodiscard]] std::string registration_problem() const override { return registration_problem_; }
  NcclAnswer<std::byte*> mem_alloc(std::int64_t size_bytes) override {
    void* memory = nullptr;
    const NcclStatus result = nccl_.mem_alloc(&memory, static_cast<std::size_t>(size_bytes));
    return {.result = to_result(result), .value = static_cast<std::byte*>(memory)};
  }
  NcclResult mem_free(std::byte* memory) override { return to_result(nccl_.mem_free(memory)); }
  NcclAnswer<void*> comm_register(NcclComm comm,
                                  std::byte* memory,
                                  std::int64_t size_bytes) override {
    void* handle = nullptr;
    const NcclStatus result =
        nccl_.comm_register(comm, memory, static_cast<std::size_t>(size_bytes), &handle);
    return {.result = to_result(result), .value = handle};
  }
  NcclResult comm_deregister(NcclComm comm, void* handle) override {
    return to_result(nccl_.comm_deregister(comm, handle));
  }
  NcclResult comm_finalize(NcclComm comm) override { return to_result(nccl_.comm_finalize(comm)); }
  NcclResult comm_destroy(NcclComm comm) override { return to_result(nccl_.comm_destroy(comm)); }
  NcclResult comm_abort(NcclComm comm) override { return to_result(nccl_.comm_abort(comm)); }

 private:
  NcclCalls nccl_;
  std::string registration_problem_;
};

}  // namespace

NcclReport report_loaded_nccl() {
  return find_nccl().report;
}

std::shared_ptr<NcclApi> load_nccl() {
  const Found found = find_nccl();
  if (!found.report.problem.empty()) {
    throw DeviceError("transport: no NCCL communicator can be made\n  " + found.report.problem +
                      "\n  install the NCCL that torch ships");
  }
  return std::make_shared<LoadedNccl>(found.functions, found.report.registration_problem);
}

}  // namespace dynatrain
