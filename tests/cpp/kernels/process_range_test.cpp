// Copies out of another process: a child that has the memory as it was when it was forked.

#include "dynatrain/base/error.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"

#include "base/other_process.hpp"
#include "kernels/copier_conformance.hpp"
#include "kernels/random_boxes.hpp"
#include "transport/owner_process.hpp"
#include <algorithm>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace dynatrain {
namespace {

constexpr std::int64_t kRoom = 1LL << 20U;

/// A buffer whose bytes a child process has, and this one has no more.
class CopyOfAnotherProcess : public ::testing::Test, protected RandomBoxes {
 protected:
  CopyOfAnotherProcess()
      : theirs_(noise(kRoom, 1)),
        src_(theirs_),
        child_([](const ChildProcess::Line& parent) {
          parent.say("here");
          return parent.hear().empty() ? 0 : 1;
        }),
        dst_(noise(kRoom, 2)) {
    EXPECT_EQ(child_.line.hear(), "here");
    std::ranges::fill(src_, std::byte{0});
    addresses_.set_source(kSrc, {.base = src_.data(), .process = child_.pid(), .rank = 3}, kRoom);
    addresses_.set(kDst, dst_.data(), kRoom);
  }

  static std::vector<std::byte> noise(std::int64_t size_bytes, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> bytes(static_cast<std::size_t>(size_bytes));
    std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
    return bytes;
  }
  [[nodiscard]] Copier& copier() {
    if (copier_ == nullptr) {
      copier_ = make_cpu_copier(2);  // its threads come after the fork
    }
    return *copier_;
  }
  void copy(const CopyDescriptor& descriptor) {
    CopyBatch batch;
    batch.copies.push_back(descriptor);
    std::array<std::uint64_t, kNumSums> sums{};
    batch.sums = sums.data();
    copier().submit(batch, addresses_, {}).wait(deadline_in(std::chrono::seconds(30)));
  }
  /// By the oracle, element by element.
  void copy_into(std::vector<std::byte>& target, const CopyDescriptor& copy) const {
    const auto from =
        offsets_in_order(copy.copy.extents, copy.copy.src_offset_elems, copy.copy.src_strides);
    const auto to =
        offsets_in_order(copy.copy.extents, copy.copy.dst_offset_elems, copy.copy.dst_strides);
    for (std::size_t i = 0; i < from.size(); ++i) {
      std::copy_n(theirs_.begin() + from[i] * copy.elem_bytes + copy.src_offset_bytes,
                  copy.elem_bytes,
                  target.begin() + to[i] * copy.elem_bytes + copy.dst_offset_bytes);
    }
  }
  std::string error_of(const CopyDescriptor& descriptor) {
    try {
      copy(descriptor);
    } catch (const DeviceError& error) {
      return error.what();
    }
    return "";
  }

  std::vector<std::byte> theirs_;  ///< what the child has in src_
  std::vector<std::byte> src_;
  ChildProcess child_;
  std::vector<std::byte> dst_;
  AddressTable addresses_;
  std::unique_ptr<Copier> copier_;
};

// Long runs, short ones that lie together or apart, other orders of dimensions: each takes a way of
// its own through the calls of the system, and none may touch a byte beside its box.
TEST_F(CopyOfAnotherProcess, RandomBoxesEqualElementByElementCopies) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    CopyDescriptor box = random_box(0, kRoom, random);
    box.dst = kDst;
    std::vector<std::byte> expected = dst_;
    copy_into(expected, box);
    copy(box);
    ASSERT_EQ(dst_, expected);
  }
}

// More runs than one call takes, and rows longer than a block.
TEST_F(CopyOfAnotherProcess, ManyRunsAndLongOnesEqualElementByElementCopies) {
  std::mt19937_64 random(1);
  for (const CopyDescriptor& box : {rows(1, 200, 100, 5000),
                                    rows(4, 300, 3, 800),
                                    rows(8, 3, 20000, 40000),
                                    rows(1, 100, 10000, 10240),
                                    run(4, 262144)}) {
    for (const std::int64_t step : {1, 2}) {
      CopyDescriptor spread = box;
      spread.copy.extents[spread.copy.extents.rank() - 1] /= step;
      spread.copy.src_strides[spread.copy.extents.rank() - 1] *= step;
      std::vector<std::byte> expected = dst_;
      copy_into(expected, spread);
      copy(spread);
      ASSERT_EQ(dst_, expected);
    }
  }
}

// The sum is of what arrived.
TEST_F(CopyOfAnotherProcess, SumIsThatOfItsBytes) {
  CopyBatch batch;
  batch.copies.push_back(rows(4, 100, 50, 700));
  batch.copies.back().sum_slot = 0;
  std::array<std::uint64_t, 1> sums{};
  batch.sums = sums.data();
  copier().submit(batch, addresses_, {}).wait(deadline_in(std::chrono::seconds(30)));
  std::uint64_t expected = 0;
  std::uint64_t index = 0;
  for (const std::int64_t at : offsets_in_order({100, 50}, 0, {700, 1})) {
    std::uint32_t word = 0;
    std::memcpy(&word, theirs_.data() + at * 4, sizeof(word));
    expected += part_sum_term(index++, word, true);
  }
  EXPECT_EQ(sums[0], expected);
}

// A peer that dies in a run: the run has to say so, and the copier to serve the next one.
// A peer that dies is a peer's error, as on the ranks that read nothing of it.
TEST_F(CopyOfAnotherProcess, EndsWithAPeersErrorWhereTheProcessHasEnded) {
  const std::string number = std::to_string(child_.pid());
  child_.kill();
  try {
    copy(run(1, kRoom));
    ADD_FAILURE() << "the process had ended";
  } catch (const TransportError& error) {
    EXPECT_EQ(error.peer, 3);
    EXPECT_TRUE(error.retryable);
    const std::string text = error.what();
    EXPECT_NE(text.find("rank 3 (process " + number + ") has ended"), std::string::npos) << text;
  }
  addresses_.set(kSrc, theirs_.data(), kRoom);
  copy(run(1, kRoom));
  EXPECT_EQ(dst_, theirs_);
}

// The system reads up to there and says so by a number alone.
TEST(CopyOfAPartOfAnotherProcess, ThatIsNotThereEndsWithAnError) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  void* const pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, flags, -1, 0);
  ChildProcess child([&](const ChildProcess::Line& parent) {
    munmap(static_cast<std::byte*>(pages) + page, page);
    parent.say("here");
    return parent.hear().empty() ? 0 : 1;
  });
  EXPECT_EQ(child.line.hear(), "here");
  std::vector<std::byte> target(2 * page);
  const iovec own{.iov_base = target.data(), .iov_len = 2 * page};
  const iovec theirs{.iov_base = pages, .iov_len = 2 * page};
  try {
    read_process({.number = child.pid()}, {&own, 1}, {&theirs, 1});
    ADD_FAILURE() << "a part was missing";
  } catch (const DeviceError& error) {
    const std::string expected =
        "expected " + std::to_string(2 * page) + " bytes, got " + std::to_string(page);
    EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
  }
  munmap(pages, 2 * page);
}

TEST_F(CopyOfAnotherProcess, IntoItIsRefusedAndSoIsASumOfWhatIsLeftThere) {
  CopyDescriptor back = run(1, 64);
  std::swap(back.src, back.dst);
  EXPECT_THROW(copy(back), InternalError);
  CopyDescriptor sum = run(1, 64);
  sum.dst = kNone;
  sum.sum_slot = 0;
  EXPECT_THROW(copy(sum), InternalError);
}

}  // namespace
}  // namespace dynatrain
