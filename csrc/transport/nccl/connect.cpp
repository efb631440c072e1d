// How the ranks of a world find each other: rank 0's id and options, through the store.

#include "transport/nccl/world.hpp"
#include <cstring>
#include <exception>
#include <string>

namespace dynatrain {
namespace {

constexpr const char* kIdKey = "nccl_id";

std::string to_text(const NcclId& id) {
  return {reinterpret_cast<const char*>(id.data()), id.size()};
}

/// All that cuts groups and names memory alike on both ends of a message.
std::string to_text(const NcclOptions& options) {
  return "max_ops_per_group=" + std::to_string(options.max_ops_per_group) +
         " max_channels=" + std::to_string(options.max_channels) +
         " piece_bytes=" + std::to_string(options.piece_bytes) +
         " register_staging=" + std::to_string(static_cast<int>(options.register_staging));
}

NcclId to_id(const std::string& bytes) {
  NcclId id{};
  if (bytes.size() < id.size()) {
    throw TransportError("transport: rank 0 published an NCCL id of " +
                             std::to_string(bytes.size()) + " bytes, expected " +
                             std::to_string(id.size()) +
                             "\n  no communicator was made\n  use one store and prefix for each "
                             "communicator, and nothing else under it",
                         0,
                         -1,
                         false);
  }
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

void check_options(const std::string& own, const std::string& first, int rank) {
  if (own != first) {
    throw LayoutError("transport: rank " + std::to_string(rank) +
                      " has other options for NCCL than rank 0\n  on rank 0: " + first +
                      "\n  on rank " + std::to_string(rank) + ": " + own +
                      "\n  no communicator was made; the others end at their deadline\n"
                      "  give all ranks the same options");
  }
}

}  // namespace

void NcclWorld::connect(Store& store, Deadline deadline) {
  const DeviceScope scope(device(), options_.device);
  try {
    NcclInit init{.rank = rank_, .size = size_, .id = {}, .max_channels = options_.max_channels};
    if (rank_ == 0) {
      const NcclAnswer<NcclId> made = libraries_.nccl->get_unique_id();
      check(made.result, "ncclGetUniqueId", {}, nullptr);
      init.id = made.value;
      store.set(kIdKey, to_text(init.id) + to_text(options_));
    } else {
      const std::string published = store.get(kIdKey, deadline);
      init.id = to_id(published);
      check_options(to_text(options_), published.substr(init.id.size()), rank_);
    }
    const NcclAnswer<NcclComm> made = libraries_.nccl->comm_init(init);
    {
      const std::lock_guard lock(mutex_);
      comm_ = made.value;
    }
    check(made.result, "ncclCommInitRankConfig", {}, made.value);
    wait_until_ready("ncclCommInitRankConfig", {}, deadline);
  } catch (const std::exception& error) {
    fail_because(error);
    throw;
  }
}

}  // namespace dynatrain
