#pragma once

// NCCL and a device runtime for tests: ranks share a cluster in which nothing is buffered. Every
// rank has one stream; a kernel on it ends when all its sends and receives have met the other end
// in a kernel that runs at the same time. A group too large for one kernel plan is cut in two, at a
// place of each rank's own. Nothing blocks, so one thread can play all ranks, and a deadlock is a
// stream that no longer moves.

#include "transport/nccl/device_api.hpp"
#include "transport/nccl/nccl_api.hpp"
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace dynatrain {

struct FakeEvent {
  bool is_pending = false;
};

class FakeCluster {
 public:
  struct Op {
    bool is_send = false;
    int peer = 0;
    std::byte* data = nullptr;
    std::int64_t size_bytes = 0;
    bool is_done = false;
  };
  /// A kernel (ops), a recorded event, or a wait for one.
  struct Item {
    enum class Kind : std::uint8_t { kKernel, kRecord, kWait };
    Kind kind = Kind::kKernel;
    std::vector<Op> ops;
    FakeEvent* event = nullptr;
  };
  struct Rank {
    std::deque<Item> stream;
    bool is_in_group = false;
    std::vector<Op> group;        ///< since group_start
    std::deque<Item> not_issued;  ///< of a group that NCCL still works on
    int polls_left = 0;           ///< until it is issued
    bool has_joined = false;
    bool is_dead = false;
    std::vector<std::string> calls;       ///< names, in order
    std::vector<std::vector<Op>> groups;  ///< that were ended, in order
    std::vector<std::string> off_device;  ///< calls of a thread whose device was another one
    std::vector<std::string> faults;      ///< what would be a crash of the real one
    std::size_t longest_stream = 0;
  };

  explicit FakeCluster(int num_ranks) : ranks_(static_cast<std::size_t>(num_ranks)) {}

  /// Moves every stream as far as it goes.
  void progress();
  void kill(int rank);
  [[nodiscard]] Rank& rank(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] int size() const { return static_cast<int>(ranks_.size()); }
  [[nodiscard]] bool have_all_joined() const;
  /// True when an operation of `rank` waits for a rank that is dead.
  [[nodiscard]] bool waits_for_dead(int rank);
  /// Cuts a group into the kernels that NCCL would launch if every operation took the most batches.
  [[nodiscard]] std::deque<Item> plans(int rank, const std::vector<Op>& ops) const;

  std::mutex mutex;
  int num_channels = 32;
  int num_polls_per_group = 0;  ///< how often a group answers kInProgress

 private:
  bool advance(int rank);
  void match(int rank, Op& send);

  std::vector<Rank> ranks_;
};

class FakeNccl final : public NcclApi {
 public:
  FakeNccl(std::shared_ptr<FakeCluster> cluster, int rank)
      : cluster_(std::move(cluster)), rank_(rank) {}

  /// Results of calls that are to fail, by name.
  std::map<std::string, NcclResult> failing;
  /// What happens inside comm_abort, before the kernels end.
  std::function<void()> while_aborting;
  std::string no_registration;        ///< registration_problem()
  bool declines_to_register = false;  ///< success, and no handle
  /// Memory of mem_alloc by its address; each registration by its handle, an address in it.
  std::map<std::byte*, std::vector<std::byte>> memory;
  std::set<void*> registrations;

  NcclAnswer<NcclId> get_unique_id() override;
  NcclAnswer<NcclComm> comm_init(const NcclInit& init) override;
  NcclResult async_error(NcclComm comm) override;
  std::string describe(NcclResult result, NcclComm comm) override;
  NcclResult group_start() override;
  NcclResult group_end() override;
  NcclResult send(const std::byte* data,
                  std::int64_t size_bytes,
                  int peer,
                  NcclComm comm,
                  void* stream) override;
  NcclResult recv(
      std::byte* data, std::int64_t size_bytes, int peer, NcclComm comm, void* stream) override;
  [[nodiscard]] std::string registration_problem() const override { return no_registration; }
  NcclAnswer<std::byte*> mem_alloc(std::int64_t size_bytes) override;
  NcclResult mem_free(std::byte* memory) override;
  NcclAnswer<void*> comm_register(NcclComm comm,
                                  std::byte* memory,
                                  std::int64_t size_bytes) override;
  NcclResult comm_deregister(NcclComm comm, void* handle) override;
  NcclResult comm_finalize(NcclComm comm) override;
  NcclResult comm_destroy(NcclComm comm) override;
  NcclResult comm_abort(NcclComm comm) override;

 private:
  NcclResult call(const std::string& name);
  /// Notes a call on the wrong side of a group's begin or end.
  void expect_in_group(bool is_inside, const std::string& name);

  std::shared_ptr<FakeCluster> cluster_;
  int rank_;
};

/// Host memory stands in for device memory, but for what `host_memory` points to.
class FakeDevice final : public DeviceApi {
 public:
  FakeDevice(std::shared_ptr<FakeCluster> cluster, int rank)
      : cluster_(std::move(cluster)), rank_(rank) {}

  std::vector<const void*> host_memory;
  bool is_lost = false;  ///< events answer with an error
  bool hangs = false;    ///< nothing is zeroed before a deadline
  int num_events = 0;    ///< that were made and not destroyed

  int set_device(int device) override;
  void* create_stream() override;
  void destroy_stream(void* stream) override;
  void* create_event() override;
  void destroy_event(void* event) override;
  void record(void* event, void* stream) override;
  bool is_done(void* event) override;
  void stream_wait(void* stream, void* event) override;
  bool zero(std::byte* memory, std::int64_t size_bytes, Deadline deadline) override;
  bool is_host_memory(const void* data) override;

 private:
  void push(FakeCluster::Item item);
  void note_device(const std::string& name);

  std::shared_ptr<FakeCluster> cluster_;
  int rank_;
};

}  // namespace dynatrain
