// Reading peers' device memory, over a driver that is played by files mapped twice.

#include "dynatrain/transport/cuda_ipc.hpp"

#include "transport/ipc_world.hpp"
#include "transport/peer_memory/peer_wait.hpp"
#include "transport/transport_conformance.hpp"
#include <array>
#include <string>
#include <sys/resource.h>
#include <vector>

namespace dynatrain {
namespace {

constexpr std::int64_t kPage = 4096;

class IpcTestWorld final : public TransportWorld {
 public:
  IpcTestWorld(int num_ranks, IpcKind kind) : world_(num_ranks), kind_(kind) {}
  [[nodiscard]] Transport& rank(int rank) override { return world_.rank(rank); }
  void kill(int rank) override {
    world_.loopback.kill(rank);
    world_.rank(rank).abort("it was killed");  // whose sockets close, as those of a dead process
  }
  [[nodiscard]] std::byte* memory(int rank, std::int64_t /*size_bytes*/) override {
    return world_.machine->allocate(rank, kind_, kPage);
  }

 private:
  FakeIpcWorld world_;
  IpcKind kind_;
};

TransportCase ipc_case(const std::string& name, IpcKind kind) {
  return {.name = name,
          .make = [kind](int num_ranks) { return std::make_unique<IpcTestWorld>(num_ranks, kind); },
          .compares_sizes = true};
}

INSTANTIATE_TEST_SUITE_P(CudaIpc,
                         TransportConformance,
                         ::testing::Values(ipc_case("handles", IpcKind::kHandle),
                                           ipc_case("files", IpcKind::kFile)),
                         [](const auto& test) { return test.param.name; });

Deadline late() {
  return deadline_in(std::chrono::seconds(20));
}

ExposedBuffer buffer(std::int64_t id, const std::byte* base, std::int64_t size_bytes) {
  return {.buffer = BufferId(id), .base = base, .size_bytes = size_bytes};
}

template <class ErrorType, class What>
std::string error_of(const What& what) {
  try {
    what();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "no such error";
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A caching allocator puts hundreds of tensors into one allocation; the driver refuses to open a
// handle twice on some systems, and each open costs a system call.
TEST(CudaIpcMappings, OneOpenServesAllTensorsOfAnAllocation) {
  FakeIpcWorld world(2);
  std::byte* const memory = world.machine->allocate(1, IpcKind::kHandle, 16 * kPage);
  for (int run = 0; run < 3; ++run) {
    world.side(1).publish(std::array{buffer(0, memory + 8, 100), buffer(5, memory + kPage, 8)});
    world.side(0).publish({});
    memory[8] = std::byte{7};
    memory[kPage] = std::byte{9};
    EXPECT_EQ(*world.side(0).map(1, BufferId(0), late()).base, std::byte{7});
    EXPECT_EQ(*world.side(0).map(1, BufferId(5), late()).base, std::byte{9});
    world.side(0).release();
    world.side(1).withdraw();
    EXPECT_EQ(world.machine->num_opens, run + 1);
  }
}

// torch's expandable segments are made of pieces of 2 MiB and more; a tensor does not care.
TEST(CudaIpcMappings, TensorAcrossPiecesIsReadInOneRun) {
  FakeIpcWorld world(2);
  std::byte* const memory = world.machine->allocate(1, IpcKind::kFile, kPage, 3);
  for (std::int64_t i = 0; i < 3 * kPage; ++i) {
    memory[i] = static_cast<std::byte>(i % 251);
  }
  world.side(1).publish(std::array{buffer(0, memory + 5, 3 * kPage - 9)});
  world.side(0).publish({});
  const std::byte* const mapped = world.side(0).map(1, BufferId(0), late()).base;
  EXPECT_TRUE(std::equal(mapped, mapped + 3 * kPage - 9, memory + 5));
  EXPECT_EQ(world.machine->num_opens, 1);
  world.side(1).withdraw();
  EXPECT_EQ(world.machine->num_files(), 0) << "an open file keeps memory that its owner frees";
}

/// Lets this process open only so many more files than it has open, until the end of the scope.
class FileLimit {
 public:
  explicit FileLimit(int num_more) {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &former_), 0);
    rlimit limit = former_;
    limit.rlim_cur = static_cast<rlim_t>(count_open_files() + num_more);
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  ~FileLimit() { setrlimit(RLIMIT_NOFILE, &former_); }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit former_{};
};

// 80 GB of expandable segments are 4000 pieces; a process is often allowed 1024 files, and training
// needs some of them.
TEST(CudaIpcMappings, SegmentOfManyPiecesNeedsNoFileForEach) {
  FakeIpcWorld world(2);
  constexpr int kNumPieces = 100;
  std::byte* const memory = world.machine->allocate(1, IpcKind::kFile, kPage, kNumPieces);
  memory[kNumPieces * kPage - 1] = std::byte{7};
  const FileLimit limit(16);
  world.side(1).publish(std::array{buffer(0, memory, kNumPieces * kPage)});
  EXPECT_EQ(world.machine->num_files(), 0);
  world.side(0).publish({});
  EXPECT_EQ(world.side(0).map(1, BufferId(0), late()).base[kNumPieces * kPage - 1], std::byte{7});
  world.side(0).release();
  world.side(1).withdraw();
}

/// Runs twice over memory that is freed and made again at its address between the runs.
std::byte read_after_remake(FakeIpcWorld& world, IpcKind kind) {
  world.machine->may_free_opened = true;
  std::byte* const memory = world.machine->allocate(1, kind, kPage);
  world.side(1).publish(std::array{buffer(0, memory, 8)});
  world.side(0).publish({});
  memory[0] = std::byte{1};
  EXPECT_EQ(*world.side(0).map(1, BufferId(0), late()).base, std::byte{1});
  world.side(1).withdraw();
  world.machine->remake(memory);
  memory[0] = std::byte{2};
  world.side(1).publish(std::array{buffer(0, memory, 8)});
  world.side(0).publish({});
  const std::byte read = *world.side(0).map(1, BufferId(0), late()).base;
  EXPECT_EQ(world.machine->num_open(), 1) << "the former mapping still holds memory";
  world.side(1).withdraw();
  return read;
}

// Same address, same size, other memory: what was mapped before would read the freed one.
TEST(CudaIpcMappings, MemoryMadeAgainAtItsAddressIsMappedAgain) {
  FakeIpcWorld world(2);
  EXPECT_EQ(read_after_remake(world, IpcKind::kHandle), std::byte{2});
  EXPECT_EQ(read_after_remake(world, IpcKind::kFile), std::byte{2});
}

// Freeing what a peer has open is undefined for CUDA IPC.
TEST(CudaIpcMappings, NothingStaysOpenAfterRelease) {
  FakeIpcWorld world(2);
  std::byte* const memory = world.machine->allocate(1, IpcKind::kHandle, kPage);
  world.side(1).publish(std::array{buffer(0, memory, 8)});
  world.side(0).publish({});
  static_cast<void>(world.side(0).map(1, BufferId(0), late()));
  world.side(0).release();
  EXPECT_EQ(world.machine->num_open(), 0);
  world.side(1).withdraw();
  world.machine->free(memory);
}

// What one rank cannot export goes by messages: both ends must leave it out, and nothing else.
TEST(CudaIpcRefusal, OwnerAndReaderLeaveOutTheSameAndReadTheRest) {
  FakeIpcWorld world(2);
  std::byte* const closed = world.machine->allocate(1, IpcKind::kFile, kPage);
  std::byte* const open = world.machine->allocate(1, IpcKind::kFile, kPage);
  world.machine->forbid_export(closed);
  const std::array buffers{buffer(0, closed, 8), buffer(1, open, 8)};
  const Unreadable unreadable = world.side(1).publish(buffers);
  EXPECT_EQ(unreadable.buffers, std::vector{BufferId(0)});
  EXPECT_TRUE(holds(unreadable.reason, "cannot be exported")) << unreadable.reason;
  world.side(0).publish({});
  EXPECT_EQ(world.side(0).map(1, BufferId(0), late()).base, nullptr);
  EXPECT_NE(world.side(0).map(1, BufferId(1), late()).base, nullptr);
  world.side(0).release();
  world.side(1).withdraw();
}

TEST(CudaIpcRefusal, HostMemoryIsLeftOutAndATensorPastItsAllocationToo) {
  FakeIpcWorld world(2);
  const std::byte on_stack{};
  EXPECT_NE(world.side(1).publish(std::array{buffer(0, &on_stack, 1)}).reason, "");
  std::byte* const memory = world.machine->allocate(1, IpcKind::kHandle, kPage);
  EXPECT_NE(world.side(1).publish(std::array{buffer(0, memory + 8, kPage)}).reason, "");
}

TEST(CudaIpcRefusal, OpenThatIsRefusedLeavesNothingBehind) {
  FakeIpcWorld world(2);
  std::byte* const memory = world.machine->allocate(1, IpcKind::kFile, kPage, 2);
  world.side(1).publish(std::array{buffer(0, memory, 2 * kPage)});
  world.side(0).publish({});
  world.machine->refusing.insert(0);
  const std::string error =
      error_of<DeviceError>([&] { static_cast<void>(world.side(0).map(1, BufferId(0), late())); });
  EXPECT_TRUE(holds(error, "rank 0 may open nothing")) << error;
  world.side(1).withdraw();  // the machine counts files and mappings at its end
}

// The store is the one thing between the ranks; its loss must name itself, and at once.
TEST(CudaIpcRefusal, LostStoreIsAnErrorBeforeTheDeadline) {
  class LostStore final : public Store {
   public:
    void set(const std::string& /*key*/, const std::string& /*value*/) override {}
    std::string get(const std::string& /*key*/, Deadline /*deadline*/) override {
      throw TransportError("the store's host is gone", -1, -1, false);
    }
  };
  FakeIpcWorld world(2);
  PeerMemoryTransport lost(world.rank(0),
                           std::make_shared<LostStore>(),
                           all_ranks(2),
                           std::make_shared<FakeIpc>(world.machine, 0),
                           std::make_unique<Lifelines>());
  lost.publish({});
  const std::string error = error_of<TransportError>(
      [&] { static_cast<void>(lost.map(1, BufferId(0), Deadline::max())); });
  EXPECT_TRUE(holds(error, "host is gone") && holds(error, "rank 1")) << error;
}

// A store that counts in whole milliseconds gives up before the moment it was given.
TEST(CudaIpcRefusal, StoreThatGivesUpALittleEarlyIsAskedAgain) {
  class HastyStore final : public Store {
   public:
    void set(const std::string& /*key*/, const std::string& /*value*/) override {}
    std::string get(const std::string& /*key*/, Deadline deadline) override {
      if (++num_asked_ < 3) {
        std::this_thread::sleep_until(deadline - std::chrono::milliseconds(2));
        throw TransportError("not set yet", -1, -1, true);
      }
      return "word";
    }

   private:
    int num_asked_ = 0;
  };
  HastyStore store;
  const AbortFlag not_aborted;
  EXPECT_EQ(wait_for_word(store, "key", 1, {.deadline = late(), .aborted = not_aborted}), "word");
}

// The store's words come from another process, perhaps of another version.
TEST(CudaIpcRefusal, TornPublicationIsRefused) {
  IpcPublication publication;
  publication.ranges.push_back(
      {.kind = IpcKind::kFile, .base = 4096, .pieces = {{.size_bytes = 64, .handle = {}}}});
  publication.buffers.push_back({.buffer = BufferId(3), .offset_bytes = 8, .size_bytes = 56});
  const std::string words = encode(publication);
  EXPECT_EQ(decode_publication(words, 2).buffers.front().offset_bytes, 8);
  for (std::size_t size = 0; size < words.size(); ++size) {
    EXPECT_THROW(static_cast<void>(decode_publication(words.substr(0, size), 2)), TransportError);
  }
}

// A piece without a size, or a handle of two pieces, would be handed to the driver as it is.
TEST(CudaIpcRefusal, PublicationThatNoRankWritesIsRefused) {
  const PublishedPiece piece{.size_bytes = 64, .handle = {}};
  const PublishedPiece endless{.size_bytes = INT64_MAX, .handle = {}};
  const PublishedPiece empty{.size_bytes = 0, .handle = {}};
  const auto with = [](IpcKind kind, std::vector<PublishedPiece> pieces, std::int64_t size_bytes) {
    IpcPublication publication;
    publication.ranges.push_back({.kind = kind, .base = 4096, .pieces = std::move(pieces)});
    publication.buffers.push_back(
        {.buffer = BufferId(3), .offset_bytes = 8, .size_bytes = size_bytes});
    return encode(publication);
  };
  EXPECT_NO_THROW(static_cast<void>(decode_publication(with(IpcKind::kFile, {piece}, 56), 2)));
  for (const std::string& words : {with(IpcKind::kFile, {piece}, 57),  // past the end of its range
                                   with(IpcKind::kFile, {}, 0),
                                   with(IpcKind::kHandle, {}, 0),
                                   with(IpcKind::kHandle, {piece, piece}, 8),
                                   with(IpcKind::kFile, {piece, empty}, 8),
                                   with(IpcKind::kFile, {piece, endless}, 8),
                                   with(static_cast<IpcKind>(7), {piece}, 8)}) {
    EXPECT_THROW(static_cast<void>(decode_publication(words, 2)), TransportError);
  }
}

// The number of a buffer was cut to 32 bits: one that no rank has stood for another one.
TEST(CudaIpcRefusal, PublicationIsReadToItsEndAndWithItsOwnNumbers) {
  IpcPublication publication;
  publication.ranges.push_back(
      {.kind = IpcKind::kFile, .base = 4096, .pieces = {{.size_bytes = 64, .handle = {}}}});
  publication.buffers.push_back({.buffer = BufferId(3), .offset_bytes = 8, .size_bytes = 56});
  const std::string words = encode(publication);
  std::string cut = words;
  cut[words.size() - 32 + 4] = 1;  // the fifth byte of the number of its only buffer

  EXPECT_THROW(static_cast<void>(decode_publication(cut, 2)), TransportError);
  EXPECT_THROW(static_cast<void>(decode_publication(words + 'x', 2)), TransportError);
}

/// Connects and expects that no rank has a one-sided part, all for the same reason.
std::string common_problem(const FakeIpcWorld::Change& change) {
  FakeIpcWorld world(3, change);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(world.rank(rank).one_sided(), nullptr) << "rank " << rank;
    EXPECT_EQ(world.report(rank).problem, world.report(0).problem);
  }
  return world.report(0).problem;
}

// One rank that reads and one that sends would wait for each other until the deadline.
TEST(CudaIpcProbe, WhatOneRankCannotNoneDoes) {
  const std::string elsewhere = common_problem([](FakeIpcWorld& /*world*/, IpcProbe& probe) {
    probe.place.boot = probe.rank == 2 ? "another boot" : "boot";
    probe.place.host = "host" + std::to_string(probe.rank);
  });
  EXPECT_TRUE(holds(elsewhere, "another machine, 'host2'")) << elsewhere;
  const std::string without = common_problem([](FakeIpcWorld& /*world*/, IpcProbe& probe) {
    if (probe.rank == 1) {
      probe.api = nullptr;
      probe.api_problem = "libcuda.so.1 was not found";
    }
  });
  EXPECT_TRUE(holds(without, "rank 1") && holds(without, "libcuda.so.1")) << without;
  const std::string refused = common_problem([](FakeIpcWorld& world, IpcProbe& probe) {
    if (probe.rank == 2) {
      world.machine->refusing.insert(2);
    }
  });
  EXPECT_TRUE(holds(refused, "rank 2 cannot read memory of rank 0")) << refused;
}

// Containers often forbid one kind: the other one still serves what lies in it.
TEST(CudaIpcProbe, OneKindOfMemoryIsEnough) {
  FakeIpcWorld world(2, [](FakeIpcWorld& machine, IpcProbe& probe) {
    probe.place.network_space = "space " + std::to_string(probe.rank);
    machine.machine->lacks.insert({0, IpcKind::kFile});
  });
  EXPECT_NE(world.rank(0).one_sided(), nullptr);
  EXPECT_EQ(world.report(1).handle_problem, "");
  EXPECT_NE(world.report(1).file_problem, "");
  EXPECT_EQ(world.machine->num_open(), 0);
  std::byte* const memory = world.machine->allocate(1, IpcKind::kFile, 4096);
  const Unreadable unreadable =
      world.side(1).publish(std::array{ExposedBuffer{BufferId(3), memory, 64}});
  EXPECT_EQ(unreadable.buffers, std::vector{BufferId(3)});
  EXPECT_EQ(unreadable.reason, world.report(1).file_problem);
  world.side(1).withdraw();
}

TEST(CudaIpcProbe, MissingRankEndsAtTheDeadlineAndIsNamed) {
  LoopbackWorld loopback(2, {});
  const auto messages = loopback.transport(0);
  const auto machine = std::make_shared<FakeIpcMachine>();
  const IpcProbe probe{.rank = 0,
                       .ranks = all_ranks(2),
                       .api = std::make_shared<FakeIpc>(machine, 0),
                       .api_problem = {},
                       .place = {}};
  try {
    static_cast<void>(connect_peer_memory(*messages,
                                          std::make_shared<ThreadStore>(),
                                          probe,
                                          deadline_in(std::chrono::milliseconds(20))));
    FAIL() << "it connected alone";
  } catch (const TransportError& error) {
    EXPECT_EQ(error.peer, 1);
  }
}

// Without a driver the whole way from the public function on must end well, on all ranks.
TEST(CudaIpcProbe, ProcessWithoutADriverStillHasItsMessages) {
  if (cuda_ipc_problem().empty()) {
    GTEST_SKIP() << "this machine has a driver";
  }
  LoopbackWorld loopback(1, {});
  const auto messages = loopback.transport(0);
  const PeerMemoryConnection alone =
      make_cuda_ipc_transport(*messages, std::make_shared<ThreadStore>(), {0}, {}, late());
  EXPECT_EQ(alone.transport->one_sided(), nullptr);
  EXPECT_TRUE(holds(alone.report.problem, "rank 0 cannot share its memory"))
      << alone.report.problem;
}

}  // namespace
}  // namespace dynatrain
