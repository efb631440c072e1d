// What a run needs is taken ahead of it.

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "execution/wrapped_copier.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>

namespace dynatrain {
namespace {

/// What was taken of a copier, and what would have been taken of a device's.
struct Taken {
  int num_allocated = 0;
  std::int64_t reserved_copies = 0;
  std::int64_t largest_batch = 0;
};

class CountingCopier final : public WrappedCopier {
 public:
  explicit CountingCopier(Taken& taken) : taken_(taken) {}
  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place place) override {
    ++taken_.num_allocated;
    return WrappedCopier::allocate(size_bytes, place);
  }
  void reserve(std::int64_t num_copies, int /*num_batches*/) override {
    taken_.reserved_copies = num_copies;
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    taken_.largest_batch = std::max(taken_.largest_batch, std::ssize(batch.copies));
    return WrappedCopier::submit(batch, addresses, after);
  }

 private:
  Taken& taken_;
};

// Taking device memory stops the device, training streams too: all of it is taken ahead.
TEST(Reserve, RunTakesNoMemory) {
  const ShardMap source = model_map(Layout::parse("dp=4"));
  const ShardMap target = model_map(Layout::parse("dp=2,tp=2"));
  for (const bool one_sided : {false, true}) {
    std::array<Taken, 4> taken{};
    std::array<int, 4> num_ahead{};
    SwitchCase what;
    what.loopback.one_sided = one_sided;
    what.make_copier = [&](int rank) {
      return std::make_unique<CountingCopier>(taken.at(static_cast<std::size_t>(rank)));
    };
    const auto before_run = [&](int rank, LoopbackWorld&, RunControl&) {
      const auto index = static_cast<std::size_t>(rank);
      num_ahead.at(index) = taken.at(index).num_allocated;
    };
    expect_identity(source, target, switch_over_loopback(source, target, what, before_run));
    for (std::size_t rank = 0; rank < num_ahead.size(); ++rank) {
      EXPECT_GT(num_ahead.at(rank), 0);
      EXPECT_EQ(taken.at(rank).num_allocated, num_ahead.at(rank))
          << "rank " << rank << (one_sided ? ", one-sided" : ", in stages");
      EXPECT_GT(taken.at(rank).largest_batch, 0);
      EXPECT_GE(taken.at(rank).reserved_copies, taken.at(rank).largest_batch)
          << "rank " << rank << (one_sided ? ", one-sided" : ", in stages");
    }
  }
}

}  // namespace
}  // namespace dynatrain
