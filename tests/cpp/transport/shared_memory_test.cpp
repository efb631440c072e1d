// Reading peers' host memory: ranks are threads, their memory is mapped a second time for each.

#include "dynatrain/transport/shared_memory.hpp"

#include "dynatrain/transport/loopback.hpp"

#include "no_more_threads.hpp"
#include "transport/open_files.hpp"
#include "transport/owner_process.hpp"
#include "transport/peer_memory/exporter.hpp"
#include "transport/peer_memory/transport.hpp"
#include "transport/shared_memory/blocks.hpp"
#include "transport/shared_memory/host_ipc.hpp"
#include "transport/thread_store.hpp"
#include "transport/transport_conformance.hpp"
#include <array>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dynatrain {
namespace {

Deadline late() {
  return deadline_in(std::chrono::seconds(20));
}

/// Ranks as threads, connected by make_shared_memory_transport().
class SharedWorld final : public TransportWorld {
 public:
  explicit SharedWorld(int num_ranks)
      : loopback_(num_ranks, {}), connections_(static_cast<std::size_t>(num_ranks)) {
    auto store = std::make_shared<ThreadStore>();
    std::vector<int> ranks(connections_.size());
    std::iota(ranks.begin(), ranks.end(), 0);
    std::vector<std::thread> threads;
    messages_.reserve(connections_.size());
    threads.reserve(connections_.size());
    for (int rank = 0; rank < num_ranks; ++rank) {
      messages_.push_back(loopback_.transport(rank));
    }
    for (std::size_t rank = 0; rank < connections_.size(); ++rank) {
      threads.emplace_back([&, rank] {
        connections_[rank] = make_shared_memory_transport(*messages_[rank], store, ranks, late());
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  [[nodiscard]] Transport& rank(int rank) override {
    return *connections_[static_cast<std::size_t>(rank)].transport;
  }
  void kill(int rank) override {
    loopback_.kill(rank);
    this->rank(rank).abort("it was killed");  // whose sockets close, as those of a dead process
  }
  [[nodiscard]] std::byte* memory(int /*rank*/, std::int64_t size_bytes) override {
    blocks_.push_back(std::make_unique<SharedBlock>(size_bytes));
    return blocks_.back()->data();
  }
  [[nodiscard]] OneSided& side(int of_rank) { return *rank(of_rank).one_sided(); }
  [[nodiscard]] const PeerMemoryReport& report() const { return connections_.front().report; }

 private:
  LoopbackWorld loopback_;
  std::vector<std::unique_ptr<Transport>> messages_;
  std::vector<std::unique_ptr<SharedBlock>> blocks_;
  std::vector<PeerMemoryConnection> connections_;
};

INSTANTIATE_TEST_SUITE_P(
    SharedMemory,
    TransportConformance,
    ::testing::Values(TransportCase{
        .name = "files",
        .make = [](int num_ranks) { return std::make_unique<SharedWorld>(num_ranks); },
        .compares_sizes = true}),
    [](const auto& test) { return test.param.name; });

std::int64_t begin_of_block_at(const std::byte* address, const SharedBlock& block) {
  const std::optional<IpcPiece> found = block_at(address);
  return found.has_value() ? found->base - block.data() : -1;
}

// An address inside of a block is all that a tensor has; one past its end is somebody else's.
TEST(SharedBlocks, AreKnownByEveryAddressInThem) {
  const SharedBlock first(100);
  const SharedBlock second(5000);
  EXPECT_EQ(begin_of_block_at(first.data(), first), 0);
  EXPECT_EQ(begin_of_block_at(first.data() + 99, first), 0);
  EXPECT_EQ(begin_of_block_at(first.data() + 100, first), -1);
  EXPECT_EQ(begin_of_block_at(second.data() + 4999, second), 0);
}

// Memory that is made where a block was would pass for shared.
TEST(SharedBlocks, AreForgottenWithTheirMemory) {
  const std::byte* data = nullptr;
  {
    const SharedBlock block(5000);
    data = block.data();
    EXPECT_TRUE(SharedBlock::holds(data));
    EXPECT_TRUE(std::all_of(data, data + 5000, [](std::byte b) { return b == std::byte{0}; }));
  }
  EXPECT_FALSE(SharedBlock::holds(data));
  const std::vector<std::byte> own(100);
  EXPECT_FALSE(SharedBlock::holds(own.data()));
}

// One file for each block, and none once it is freed: a job switches for a month.
TEST(SharedBlocks, KeepOneFileEachAsLongAsTheyLive) {
  const int before = count_open_files();
  {
    const SharedBlock first(1 << 20);
    const SharedBlock second(1 << 20);
    EXPECT_EQ(count_open_files(), before + 2);
  }
  EXPECT_EQ(count_open_files(), before);
}

/// Pages of files that this process has, in bytes.
std::int64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssShmem:")) {
      return std::stoll(line.substr(line.find(':') + 1)) << 10U;
    }
  }
  return -1;
}

// A large block goes while its owner goes on; a switch would need memory for three states if the
// next one were taken meanwhile.
TEST(SharedBlocks, TheNextOneWaitsForThoseThatGo) {
  constexpr std::int64_t kLarge = 128LL << 20U;
  constexpr std::int64_t kSmall = 4096;
  const std::int64_t before = resident_bytes();
  for (int round = 0; round < 3; ++round) {
    std::optional<SharedBlock> large(std::in_place, kLarge);
    const IpcPiece piece{.kind = IpcKind::kFile, .base = large->data(), .size_bytes = kLarge};
    const std::shared_ptr<IpcApi> ipc = make_host_ipc();
    const std::array sizes{kLarge};
    const std::byte* const peer =
        ipc->map_files(sizes, [&](std::size_t /*piece*/) { return ipc->export_file(piece); });
    EXPECT_GE(resident_bytes(), before + 2 * kLarge);
    ipc->unmap_files(peer, kLarge);
    large.reset();
    const SharedBlock next(kSmall);
    EXPECT_LE(resident_bytes(), before + kLarge / 16) << "round " << round;
  }
}

/// Address space that this process has, in pages.
std::int64_t address_space_pages() {
  std::int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages;
}

// What a peer has may be mapped by huge pages only from where one can begin. The room that is taken
// to find such a place goes at once, and the rest with the mapping: a job switches for a month.
TEST(SharedMemory, MappingsBeginWhereAHugePageCanAndLeaveNoAddressSpaceBehind) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  constexpr std::int64_t kOdd = 5000;
  constexpr std::uintptr_t kHugePage = 2U << 20U;
  const SharedBlock block(kOdd);
  const IpcPiece piece{.kind = IpcKind::kFile, .base = block.data(), .size_bytes = kOdd};
  const std::shared_ptr<IpcApi> ipc = make_host_ipc();
  const std::array sizes{kOdd};
  const std::int64_t before = address_space_pages();
  for (int round = 0; round < 100; ++round) {
    const std::byte* const peer =
        ipc->map_files(sizes, [&](std::size_t /*piece*/) { return ipc->export_file(piece); });
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(peer) % kHugePage, 0U);
    EXPECT_LE(address_space_pages(), before + 2);
    ipc->unmap_files(peer, kOdd);
  }
  EXPECT_EQ(address_space_pages(), before);
}

// Loaders fork their workers right behind a switch: these have none of the threads by which blocks
// go, and perhaps a lock that one of them held.
TEST(SharedBlocks, AChildWaitsForNoneThatWentAsItWasForked) {
  for (int round = 0; round < 5; ++round) {
    std::optional<SharedBlock> large(std::in_place, 64LL << 20U);
    large.reset();
    const pid_t child = fork();
    if (child == 0) {
      alarm(2);  // ends it
      {
        const SharedBlock own(8LL << 20U);
      }
      SharedBlock::wait_for_leaving();
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "round " << round;
  }
}

// Pages that the system cannot give must be refused when they are asked for: touched later, they
// end the process.
TEST(SharedBlocks, MemoryThatTheSystemRefusesIsAnError) {
  const int before = count_open_files();
  EXPECT_THROW(SharedBlock(std::int64_t{1} << 60), std::bad_alloc);
  EXPECT_EQ(count_open_files(), before);
}

TEST(SharedBlocks, FilesThatTheSystemRefusesAreAnError) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  rlimit former{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &former), 0);
  const int next = dup(0);
  close(next);
  rlimit limit = former;
  limit.rlim_cur = static_cast<rlim_t>(next);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  std::string text;
  try {
    const SharedBlock block(4096);
  } catch (const DeviceError& error) {
    text = error.what();
  }
  setrlimit(RLIMIT_NOFILE, &former);
  EXPECT_NE(text.find("Too many open files"), std::string::npos) << text;
}

TEST(SharedMemory, OfAllRanksIsFoundReadable) {
  SharedWorld world(3);
  EXPECT_EQ(world.report().problem, "");
  EXPECT_EQ(world.report().file_problem, "");
  EXPECT_EQ(world.report().handle_problem, "");
}

/// A rank's memory as its peer has it mapped, until the end of the scope.
class Read {
 public:
  Read(SharedWorld& world, const std::byte* memory, std::int64_t size_bytes) : world_(world) {
    world_.side(1).publish(std::array{ExposedBuffer{BufferId(0), memory, size_bytes}});
    world_.side(0).publish({});
    mapped_ = world_.side(0).map(1, BufferId(0), late()).base;
  }
  ~Read() {
    world_.side(0).release();
    world_.side(1).withdraw();
  }
  Read(const Read&) = delete;
  Read& operator=(const Read&) = delete;
  [[nodiscard]] const std::byte* data() const { return mapped_; }

 private:
  SharedWorld& world_;
  const std::byte* mapped_ = nullptr;
};

// The owner goes on writing between publication and run: readers must see that memory, not a copy.
TEST(SharedMemory, ReaderSeesWhatIsWrittenLater) {
  SharedWorld world(2);
  std::byte* const memory = world.memory(1, std::int64_t{3} * 4096);
  const Read read(world, memory + 4097, 64);
  EXPECT_NE(read.data(), memory + 4097) << "it is to be mapped a second time";
  memory[4097] = std::byte{7};
  EXPECT_EQ(*read.data(), std::byte{7});
}

// A reader's fault must not change the owner's state.
TEST(SharedMemory, ReaderCannotWrite) {
  SharedWorld world(2);
  const Read read(world, world.memory(1, 64), 64);
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    const_cast<std::byte&>(*read.data()) = std::byte{9};
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
}

// What the first state lies in is malloc's: its owner is read, by a call of the system.
TEST(SharedMemory, MemoryOfAProcessAloneIsToldByItsPlaceAndTheRestIsMapped) {
  SharedWorld world(2);
  std::vector<std::byte> own(64);
  std::byte* const memory = world.memory(1, 64);
  memory[0] = std::byte{5};
  const std::array buffers{ExposedBuffer{BufferId(7), memory, 64},
                           ExposedBuffer{BufferId(0), own.data() + 8, 32}};
  EXPECT_TRUE(world.side(1).publish(buffers).buffers.empty());
  world.side(0).publish({});
  const SourceAddress theirs = world.side(0).map(1, BufferId(0), late());
  EXPECT_EQ(theirs.base, own.data() + 8);
  EXPECT_EQ(theirs.process, getpid());
  EXPECT_EQ(world.side(0).map(1, BufferId(7), late()).process, 0);
  EXPECT_EQ(*world.side(0).map(1, BufferId(7), late()).base, std::byte{5});
  world.side(0).release();
  world.side(1).withdraw();
}

// What its owner can read and the system hands to nobody (memfd_secret, memory of devices) would be
// an error in the middle of every switch; known when it is mapped, it goes by messages.
TEST(SharedMemory, MemoryThatNobodyElseCanReadIsAnErrorWhenItIsMapped) {
  SharedWorld world(2);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  void* const pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, flags, -1, 0);
  ASSERT_EQ(mprotect(static_cast<std::byte*>(pages) + page, page, PROT_NONE), 0);
  const std::array buffers{
      ExposedBuffer{BufferId(0), static_cast<std::byte*>(pages), 64},
      ExposedBuffer{
          BufferId(1), static_cast<std::byte*>(pages) + 64, static_cast<std::int64_t>(page)}};
  EXPECT_TRUE(world.side(1).publish(buffers).buffers.empty());
  world.side(0).publish({});
  EXPECT_EQ(world.side(0).map(1, BufferId(0), late()).rank, 1);
  try {
    static_cast<void>(world.side(0).map(1, BufferId(1), late()));
    ADD_FAILURE() << "its last byte cannot be read";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("memory of rank 1"), std::string::npos)
        << error.what();
  }
  world.side(0).release();
  world.side(1).withdraw();
  munmap(pages, 2 * page);
}

// Where the system forbids such reads, as containers do: both ends must know of it.
TEST(SharedMemory, MemoryWhoseKindIsNotReadableHereIsLeftOutAndTheRestIsPublished) {
  Exporter exporter(make_host_ipc(),
                    {.problem = {}, .handle_problem = "the system forbids it", .file_problem = {}});
  const SharedBlock block(64);
  std::vector<std::byte> own(64);
  const IpcPublication publication = exporter.make(std::array{
      ExposedBuffer{BufferId(7), block.data(), 64}, ExposedBuffer{BufferId(0), own.data(), 64}});
  EXPECT_EQ(publication.refusal, "the system forbids it");
  ASSERT_EQ(publication.buffers.size(), 1U);
  EXPECT_EQ(publication.buffers.front().buffer, BufferId(7));
}

// Another version of the library, or another kind of memory, may say what is no place.
TEST(SharedMemory, HandleThatIsNoPlaceIsRefused) {
  EXPECT_THROW(static_cast<void>(make_host_ipc()->open_handle("handle")), DeviceError);
}

// The probe's word is read as the state will be: a process that has ended has none.
TEST(SharedMemory, WordOfAnotherProcessIsReadWhileItLives) {
  const std::shared_ptr<IpcApi> ipc = make_host_ipc();
  const IpcPiece piece = ipc->allocate(IpcKind::kHandle);
  ipc->write(piece.base, 42, late());
  ChildProcess child([](const ChildProcess::Line& parent) {
    parent.say("here");
    return parent.hear().empty() ? 0 : 1;
  });
  EXPECT_EQ(child.line.hear(), "here");
  ipc->write(piece.base, 7, late());
  const SourceAddress theirs{.base = piece.base, .process = child.pid()};
  EXPECT_EQ(ipc->read(theirs, late()), 42U);
  child.kill();
  EXPECT_THROW(static_cast<void>(ipc->read(theirs, late())), DeviceError);
  ipc->free(piece);
}

// A file that is handed out after its block is freed would be that of other memory.
TEST(SharedMemory, BlockThatIsFreedIsHandedToNobody) {
  const auto ipc = make_host_ipc();
  IpcPiece piece;
  {
    const SharedBlock block(4096);
    piece = ipc->piece_at(block.data(), 4096);
  }
  EXPECT_THROW(static_cast<void>(ipc->export_file(piece)), DeviceError);
}

}  // namespace
}  // namespace dynatrain
