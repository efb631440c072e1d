// The seam over CUDA's driver, call by call, against what the driver's manual promises.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "transport/driver_fake.hpp"
#include "transport/open_files.hpp"
#include "transport/peer_memory/owned_file.hpp"
#include <array>
#include <bit>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

constexpr auto kFd = static_cast<std::uint64_t>(kPosixFileHandle);
constexpr auto kFabric = static_cast<std::uint64_t>(8);
constexpr int kDevice = 3;
constexpr Deadline kLate = Deadline::max();
constexpr auto kPieceBytes = static_cast<std::int64_t>(FakeDriver::kGranularity);

const std::byte* pointer(DevicePointer address) {
  return std::bit_cast<const std::byte*>(address);
}

class LoadedIpcTest : public ::testing::Test {
 protected:
  ~LoadedIpcTest() override {
    EXPECT_EQ(driver_.num_handles(), 0) << "handles were not released";
    EXPECT_EQ(count_open_files("memfd:exported"), 0) << "files were left open";
  }
  IpcPiece piece_at(DevicePointer address) { return api_->piece_at(pointer(address), 1); }
  std::string refusal_of(DevicePointer address) {
    try {
      static_cast<void>(piece_at(address));
    } catch (const DeviceError& error) {
      return error.what();
    }
    return "not refused";
  }

  FakeDriver driver_;
  std::shared_ptr<IpcApi> api_ = make_ipc_api(FakeDriver::calls(), kDevice);
};

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// cuIpcGetMemHandle takes the base of an allocation; torch's tensors lie anywhere in it.
TEST_F(LoadedIpcTest, AddressWithinCudaMallocsMemoryIsFoundByItsBase) {
  const DevicePointer base = driver_.make(FakeDriver::Origin::kMalloc, 5000);
  const IpcPiece piece = piece_at(base + 4999);
  EXPECT_EQ(piece.kind, IpcKind::kHandle);
  EXPECT_EQ(piece.base, pointer(base));
  EXPECT_EQ(piece.size_bytes, 5000);
}

// Whether memory has a handle of CUDA IPC is an attribute; what a retain tells is nowhere promised.
TEST_F(LoadedIpcTest, MemoryWithAHandleIsNotExportedAsAFile) {
  driver_.retains_malloc = true;
  EXPECT_EQ(piece_at(driver_.make(FakeDriver::Origin::kMalloc, 64)).kind, IpcKind::kHandle);
  driver_.retains_malloc = false;
  driver_.knows_legacy = false;
  EXPECT_EQ(piece_at(driver_.make(FakeDriver::Origin::kMalloc, 64)).kind, IpcKind::kHandle);
}

TEST_F(LoadedIpcTest, PieceOfASegmentIsOneMappingAndItsFileIsItsMemory) {
  const DevicePointer segment = driver_.make_segment(3, kFd);
  const IpcPiece piece = piece_at(segment + FakeDriver::kGranularity + 7);
  EXPECT_EQ(piece.kind, IpcKind::kFile);
  EXPECT_EQ(piece.base, pointer(segment + FakeDriver::kGranularity));
  EXPECT_EQ(piece.size_bytes, kPieceBytes);
  driver_.physical.at(driver_.find(segment + FakeDriver::kGranularity)->second.physical).word = 77;
  const std::byte* const mapped = api_->map_files(
      std::array{kPieceBytes}, [&](std::size_t /*piece*/) { return api_->export_file(piece); });
  EXPECT_EQ(api_->read({.base = mapped}, kLate), 77U);
  api_->unmap_files(mapped, kPieceBytes);
}

// The reason reaches the log of every rank; "invalid argument" would help nobody.
TEST_F(LoadedIpcTest, MemoryThatCannotBeSharedIsRefusedByWhatItIs) {
  EXPECT_TRUE(holds(refusal_of(driver_.make(FakeDriver::Origin::kHost, 64)), "the host's"));
  EXPECT_TRUE(holds(refusal_of(driver_.make(FakeDriver::Origin::kManaged, 64)), "managed"));
  EXPECT_TRUE(holds(refusal_of(driver_.make(FakeDriver::Origin::kPool, 64)), "cudaMallocAsync"));
  EXPECT_TRUE(holds(refusal_of(driver_.make_segment(1, 0)), "expected type 1, got 0"));
  EXPECT_TRUE(holds(refusal_of(driver_.make_segment(1, kFabric)), "expected type 1, got 8"));
  EXPECT_TRUE(holds(refusal_of(0x10), "is it device memory?"));
}

// A peer that read before the copy has ended would find the memory as it was, and the probe would
// fail on a machine where all is well.
TEST_F(LoadedIpcTest, WrittenWordIsWhereOtherProcessesReadIt) {
  const DevicePointer base = driver_.make(FakeDriver::Origin::kMalloc, 64);
  api_->write(pointer(base), 42, kLate);
  EXPECT_EQ(driver_.physical.at(driver_.find(base)->second.physical).word, 42U);
  EXPECT_TRUE(driver_.pinned.empty());
}

// A kernel that waits for a dead peer keeps a device busy for ever. What the copy may still touch
// must not be freed: CUDA would wait there.
TEST_F(LoadedIpcTest, DeviceThatHangsEndsTheWaitAtTheDeadlineAndKeepsItsMemory) {
  const std::byte* const word = pointer(driver_.make(FakeDriver::Origin::kMalloc, 64));
  driver_.hangs = true;
  const Deadline soon = deadline_in(std::chrono::milliseconds(5));
  EXPECT_THROW(api_->write(word, 42, soon), DeviceError);
  EXPECT_THROW(static_cast<void>(api_->read({.base = word}, soon)), DeviceError);
  EXPECT_EQ(driver_.pinned.size(), 2U);
}

TEST_F(LoadedIpcTest, FilesAreMappedBackToBackForThisDeviceAndOneIsOpenAtATime) {
  const DevicePointer segment = driver_.make_segment(3, kFd);
  int most_open = 0;
  const std::vector<std::int64_t> sizes(3, kPieceBytes);
  const std::byte* const mapped = api_->map_files(sizes, [&](std::size_t piece) {
    const int file = api_->export_file(piece_at(segment + piece * FakeDriver::kGranularity));
    most_open = std::max(most_open, count_open_files("memfd:exported"));
    return file;
  });
  EXPECT_EQ(most_open, 1);
  EXPECT_EQ(driver_.accessed_by, std::vector{kDevice});
  for (std::uint64_t i = 0; i < 3; ++i) {
    const std::uint64_t at = i * FakeDriver::kGranularity;
    const auto& here = driver_.mappings.at(std::bit_cast<DevicePointer>(mapped) + at);
    EXPECT_TRUE(here.is_accessible);
    EXPECT_EQ(here.physical, driver_.mappings.at(segment + at).physical);
  }
  api_->unmap_files(mapped, 3 * kPieceBytes);
  EXPECT_EQ(driver_.mappings.size(), 3U) << "the owner's are left";
  EXPECT_TRUE(driver_.reservations.empty());
}

// A reader whose peer dies in the middle runs on over messages, for weeks.
TEST_F(LoadedIpcTest, MappingThatFailsHalfWayLeavesNothingBehind) {
  const DevicePointer segment = driver_.make_segment(2, kFd);
  const IpcPiece piece = piece_at(segment);
  const std::vector<std::int64_t> sizes(2, kPieceBytes);
  const auto open = [&](std::size_t /*piece*/) { return api_->export_file(piece); };
  EXPECT_THROW(static_cast<void>(api_->map_files(sizes,
                                                 [&](std::size_t index) {
                                                   if (index == 1) {
                                                     throw TransportError("gone", 1, -1, true);
                                                   }
                                                   return open(index);
                                                 })),
               TransportError);
  driver_.access_status = kInvalidDevice;  // no way from device to device
  EXPECT_THROW(static_cast<void>(api_->map_files(sizes, open)), DeviceError);
  EXPECT_THROW(static_cast<void>(api_->allocate(IpcKind::kFile)), DeviceError);
  driver_.import_status = kNotSupported;  // the device is not visible here
  EXPECT_THROW(static_cast<void>(api_->map_files(sizes, open)), DeviceError);
  EXPECT_EQ(driver_.mappings.size(), 2U);
  EXPECT_TRUE(driver_.reservations.empty());
}

// Files are exported on a thread that has never touched CUDA.
TEST_F(LoadedIpcTest, EveryThreadMayCallAndKeepsItsOwnContext) {
  const DevicePointer segment = driver_.make_segment(1, kFd);
  const IpcPiece piece = piece_at(segment);
  std::thread other([&] {
    const OwnedFile file(api_->export_file(piece));
    EXPECT_TRUE(file.is_open());
    EXPECT_EQ(FakeDriver::depth, 0);
  });
  other.join();
  EXPECT_EQ(FakeDriver::depth, 0);
}

// Memory below 2 MiB is cut from a block that is shared as a whole, with what else lies in it.
TEST_F(LoadedIpcTest, ProbeMemoryIsItsOwnAndIsFreed) {
  for (const IpcKind kind : {IpcKind::kHandle, IpcKind::kFile}) {
    const IpcPiece piece = api_->allocate(kind);
    EXPECT_EQ(piece.size_bytes % (2 << 20), 0);
    EXPECT_EQ(api_->piece_at(piece.base, 1).kind, kind);
    api_->free(piece);
    EXPECT_TRUE(driver_.mappings.empty());
    EXPECT_TRUE(driver_.reservations.empty());
  }
}

}  // namespace
}  // namespace dynatrain
