#include "dynatrain/fingerprint/fingerprint.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"
#include "dynatrain/execution/run_sum.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "execution/wrapped_copier.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// The fingerprint of a whole tagged model.
std::uint64_t fingerprint_of(const Layout& layout, int num_threads) {
  const ShardMap map = model_map(layout);
  std::uint64_t total = 0;
  for (int rank = 0; rank < map.num_ranks(); ++rank) {
    RankBuffers buffers = tagged_buffers(map, rank);
    total += fingerprint_share(map, rank, buffers.memory(), {.num_threads = num_threads});
  }
  return total;
}

// The number is printed before and after a switch; it means something only if no layout changes it.
TEST(Fingerprint, IsTheSameInEveryLayout) {
  const std::uint64_t expected = fingerprint_of(Layout::parse("dp=1"), 1);
  for (int world_size = 1; world_size <= 8; ++world_size) {
    for (const Layout& layout : layouts_of(world_size, true)) {
      EXPECT_EQ(fingerprint_of(layout, 2), expected) << layout.to_string();
    }
  }
}

// An oracle without boxes or strides: every element of one dense tensor, one by one.
TEST(Fingerprint, IsTheSumOfTheTermsOfAllElements) {
  const LogicalTensor tensor{"w|param", {3, 5}, {"int16", 2}};
  const ShardMap map({{tensor, make_replicated_sharding({0})}});
  RankBuffers buffers = tagged_buffers(map, 0);
  Hasher key;
  key.add(std::string_view("w|param"));
  std::uint64_t expected = 0;
  for (std::uint64_t i = 0; i < 15; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, buffers.bytes[0].data() + 2 * i, 2);
    expected += fingerprint_term(key.digest(), i, bits);
  }
  EXPECT_EQ(fingerprint_share(map, 0, buffers.memory(), {}), expected);
}

// Comparing sorted values misses exactly this: two elements that changed places.
TEST(Fingerprint, ChangesWhenTwoElementsChangePlaces) {
  const ShardMap map = model_map(Layout::parse("dp=1"));
  RankBuffers buffers = tagged_buffers(map, 0);
  const std::uint64_t before = fingerprint_share(map, 0, buffers.memory(), {});
  const TensorId up = map.find("layers.3.up|param");
  std::byte* const data = buffers.bytes[up.index()].data();
  for (std::size_t byte = 0; byte < 4; ++byte) {
    std::swap(data[byte], data[4 * 17 + byte]);
  }
  EXPECT_NE(fingerprint_share(map, 0, buffers.memory(), {}), before);
}

// Swapping two equally shaped tensors keeps all indices and all bits; only names tell.
TEST(Fingerprint, ChangesWhenTwoTensorsAreExchanged) {
  const ShardMap map = model_map(Layout::parse("dp=1"));
  RankBuffers buffers = tagged_buffers(map, 0);
  const std::uint64_t before = fingerprint_share(map, 0, buffers.memory(), {});
  std::swap(buffers.bytes[map.find("layers.3.up|param").index()],
            buffers.bytes[map.find("layers.4.up|param").index()]);
  EXPECT_NE(fingerprint_share(map, 0, buffers.memory(), {}), before);
}

// Two copies that one tensor is to take the place of: cut in other ways, under other names.
TEST(ContentShares, AreEqualForEqualContentsWhateverTheNameAndTheCut) {
  const Shape shape{6, 5};
  const DType dtype{"float32", 4};
  const Placement rows{.kind = Placement::Kind::kShard, .dim = 0, .split_factor = 1};
  const ShardMap map({{{"first", shape, dtype}, make_replicated_sharding({2})},
                      {{"second", shape, dtype}, make_compact_sharding({{2}, {0, 1}}, {rows})},
                      {{"third", shape, dtype}, make_replicated_sharding({0, 2})}});
  const std::vector<std::string> names{"third", "second", "first"};
  const auto sums_after = [&](const std::function<void(std::vector<RankBuffers>&)>& change) {
    std::vector<RankBuffers> buffers;
    for (int rank = 0; rank < 3; ++rank) {
      buffers.push_back(empty_buffers(map, rank));
      for (const std::string& name : names) {
        std::vector<std::byte>& bytes = buffers.back().bytes[map.find(name).index()];
        const std::size_t skipped = name == "second" && rank == 1 ? bytes.size() : 0;
        for (std::size_t i = 0; i < bytes.size(); ++i) {
          bytes[i] = static_cast<std::byte>((i + skipped) * 37 / 5);
        }
      }
    }
    change(buffers);
    std::vector<std::uint64_t> sums(names.size());
    for (int rank = 0; rank < 3; ++rank) {
      const std::vector<std::uint64_t> shares =
          content_shares(map, rank, buffers[static_cast<std::size_t>(rank)].memory(), names, {});
      for (std::size_t i = 0; i < sums.size(); ++i) {
        sums[i] += shares[i];
      }
    }
    return sums;
  };

  const std::vector<std::uint64_t> sums = sums_after([](auto&) {});
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
  const std::vector<std::uint64_t> others = sums_after([&](std::vector<RankBuffers>& buffers) {
    buffers[1].bytes[map.find("second").index()].back() ^= std::byte{1};
  });
  EXPECT_EQ(others[0], sums[0]);
  EXPECT_NE(others[1], sums[1]);
  EXPECT_EQ(others[2], sums[2]);
}

TEST(ContentShares, RefuseATensorThatTheMapHasNot) {
  const ShardMap map = model_map(Layout::parse("dp=1"));
  RankBuffers buffers = tagged_buffers(map, 0);
  const std::vector<std::string> names{"none"};
  EXPECT_THROW(static_cast<void>(content_shares(map, 0, buffers.memory(), names, {})),
               InternalError);
}

/// A copier of a device whose memory the test can see: the CPU's, but nothing is the host's.
class DeviceCopier final : public WrappedCopier {
 public:
  [[nodiscard]] Place place_of(const std::byte* /*memory*/) const override {
    return Place::kDevice;
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    if (++num_batches_ > num_good_batches) {
      auto failed = std::make_shared<HostCompletion>();
      failed->fail(std::make_exception_ptr(DeviceError("device: gone")));
      return Token(std::move(failed));
    }
    return WrappedCopier::submit(batch, addresses, after);
  }
  [[nodiscard]] int num_batches() const { return num_batches_; }

  int num_good_batches = 1000;

 private:
  int num_batches_ = 0;
};

// The host may not read a device's memory: its device adds up the same number, in one batch.
TEST(DeviceFingerprint, EqualsTheHosts) {
  for (const Layout& layout : layouts_of(4, true)) {
    const ShardMap map = model_map(layout);
    for (int rank = 0; rank < map.num_ranks(); ++rank) {
      RankBuffers buffers = tagged_buffers(map, rank);
      DeviceCopier copier;
      EXPECT_EQ(
          fingerprint_share(map, rank, buffers.memory(), {.num_threads = 2, .copier = &copier}),
          fingerprint_share(map, rank, buffers.memory(), {}));
      EXPECT_LE(copier.num_batches(), 1);
      EXPECT_TRUE(rank > 0 || copier.num_batches() > 0);
    }
  }
}

TEST(DeviceFingerprint, FailsWithWhatTheBatchFailedWith) {
  const ShardMap map = model_map(Layout::parse("dp=1"));
  RankBuffers buffers = tagged_buffers(map, 0);
  DeviceCopier copier;
  copier.num_good_batches = 0;
  EXPECT_THROW(static_cast<void>(fingerprint_share(map, 0, buffers.memory(), {.copier = &copier})),
               DeviceError);
}

// Memory is being written until then.
TEST(DeviceFingerprint, WaitsForWhatItComesAfter) {
  const ShardMap map = model_map(Layout::parse("dp=1"));
  RankBuffers buffers = tagged_buffers(map, 0);
  const Token never(std::make_shared<HostCompletion>());
  EXPECT_THROW(
      static_cast<void>(fingerprint_share(
          map, 0, buffers.memory(), {.after = {never}, .timeout = std::chrono::milliseconds(10)})),
      TransportError);
}

// What a device adds up with: the key as a part of the index.
TEST(RunSum, KeyMayBePartOfTheIndex) {
  for (const std::uint64_t key : {0ULL, 1ULL, 0x8000000000000000ULL, 0x123456789abcdefULL}) {
    EXPECT_EQ(fingerprint_term(0, 41 + fingerprint_key_offset(key), 7),
              fingerprint_term(key, 41, 7));
  }
}

// Damage of one element alone is always seen: no other value has its term, wherever it stands.
TEST(RunSum, NoTwoValuesOfAnElementHaveTheSameTerm) {
  for (const std::uint64_t index : {0ULL, 1ULL, 40'503ULL, 3'000'000'000ULL}) {
    std::set<std::uint64_t> terms;
    for (std::uint64_t bits = 0; bits < 1ULL << 16U; ++bits) {
      terms.insert(part_sum_term(index, bits, true));
      terms.insert(part_sum_term(index, bits << 16U | 0xffffU, true));  // these are shared: ffff
    }
    EXPECT_EQ(terms.size(), (2ULL << 16U) - 1) << "index " << index;
  }
}

/// Rows of one kind of content, as elements of `width` bytes.
using Content = std::function<std::uint64_t(std::int64_t row, std::int64_t column)>;

// Elements that changed places, alone or as rows, are what a wrong copy makes of a right one; and
// tensors are masks, signs, tables of positions as well as noise.
TEST(RunSum, SeesElementsAndRowsThatChangedPlaces) {
  constexpr std::int64_t kRow = 24;
  std::mt19937_64 random(7);
  const std::vector<std::pair<const char*, Content>> contents{
      {"noise", [&](auto /*row*/, auto /*column*/) { return random(); }},
      {"one-hot", [](auto row, auto column) { return row == column ? 1U : 0U; }},
      {"one-hot floats", [](auto row, auto column) { return row == column ? 0x3f800000U : 0U; }},
      {"masks", [&](auto /*row*/, auto /*column*/) { return random() & 1U; }},
      {"signs", [&](auto /*row*/, auto /*column*/) { return (random() & 1U) ? 0x3f80U : 0xbf80U; }},
      {"rotated", [](auto row, auto column) { return (row + column) % kRow; }}};
  for (const std::int64_t width : {1, 2, 4, 8}) {
    for (const auto& [name, content] : contents) {
      std::vector<std::byte> data(static_cast<std::size_t>(kRow * kRow * width));
      for (std::int64_t i = 0; i < kRow * kRow; ++i) {
        const std::uint64_t bits = content(i / kRow, i % kRow);
        std::memcpy(
            &data[static_cast<std::size_t>(i * width)], &bits, static_cast<std::size_t>(width));
      }
      const auto sum = [&] {
        return part_sum_run({.data = data.data(), .elem_bytes = width, .count = kRow * kRow}, 3);
      };
      const std::uint64_t right = sum();
      for (const std::int64_t elems : {std::int64_t{1}, kRow}) {
        for (int trial = 0; trial < 500; ++trial) {
          const auto size = static_cast<std::uint64_t>(elems * width);
          const std::uint64_t places = data.size() / size;
          const auto a = data.begin() + static_cast<std::ptrdiff_t>(random() % places * size);
          const auto b = data.begin() + static_cast<std::ptrdiff_t>(random() % places * size);
          const auto end = a + static_cast<std::ptrdiff_t>(size);
          const bool is_other = !std::equal(a, end, b);
          std::swap_ranges(a, end, b);
          EXPECT_EQ(sum() != right, is_other)
              << name << ", " << width << " bytes, " << elems << " elements";
          std::swap_ranges(a, end, b);
        }
      }
    }
  }
}

// Vectorised runs, odd widths and strides must all be the plain sum of the terms.
TEST(RunSum, EqualsElementByElementSums) {
  std::vector<std::byte> data(4096);
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<std::byte>(i * 37 + i / 251);
  }
  for (const std::int64_t width : {1, 2, 3, 4, 7, 8, 12, 16}) {
    for (const std::int64_t stride : {1, 3}) {
      std::uint64_t sum = 0;
      std::uint64_t fingerprint = 0;
      const auto words = static_cast<std::uint64_t>((width + 7) / 8);
      for (std::int64_t i = 0; i < 77; ++i) {
        for (std::uint64_t word = 0; word < words; ++word) {
          std::uint64_t bits = 0;
          for (std::int64_t b = 0; b < 8 && static_cast<std::int64_t>(word) * 8 + b < width; ++b) {
            const std::int64_t at =
                1 + i * stride * width + static_cast<std::int64_t>(word) * 8 + b;
            bits |= static_cast<std::uint64_t>(data[static_cast<std::size_t>(at)])
                    << static_cast<unsigned>(8 * b);
          }
          const std::uint64_t index = (static_cast<std::uint64_t>(i) + 9) * words + word;
          sum += part_sum_term(index, bits, width <= 4);
          fingerprint += fingerprint_term(5, index, bits);
        }
      }
      const ElementRun run{
          .data = data.data() + 1, .elem_bytes = width, .stride_elems = stride, .count = 77};
      EXPECT_EQ(part_sum_run(run, 9), sum) << width << " bytes, stride " << stride;
      EXPECT_EQ(fingerprint_run(run, 5, 9), fingerprint) << width << " bytes, stride " << stride;
    }
  }
}

/// The fragment hashes of all ranks, after `change` has been made to rank `rank`'s tensor.
std::vector<std::string> compare_after_change(const ShardMap& map,
                                              int changed_rank,
                                              const std::string& name) {
  std::vector<std::vector<FragmentHash>> hashes;
  for (int rank = 0; rank < map.num_ranks(); ++rank) {
    RankBuffers buffers = tagged_buffers(map, rank);
    if (rank == changed_rank) {
      buffers.bytes[map.find(name).index()].back() ^= std::byte{1};
    }
    hashes.push_back(fragment_hashes(map, rank, buffers.memory(), {.num_threads = 2}));
  }
  return compare_replicas(map, hashes);
}

// Replicas that drifted apart make the outcome of a switch depend on who sends.
TEST(Replicas, DifferenceNamesTensorBoxAndRanks) {
  const ShardMap map = model_map(Layout::parse("dp_replicate=2,tp=2"));
  EXPECT_EQ(compare_after_change(map, -1, ""), std::vector<std::string>{});
  const std::vector<std::string> lines = compare_after_change(map, 2, "layers.1.norm|exp_avg");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("'layers.1.norm|exp_avg' "), std::string::npos) << lines[0];
  EXPECT_NE(lines[0].find("2"), std::string::npos) << lines[0];
}

// Tied weights may be cut differently on two stages; the cells that both hold must still agree.
TEST(Replicas, CopiesThatAreCutDifferentlyAreComparedCellByCell) {
  const LogicalTensor tensor{"tied|param", {6, 4}, {"float32", 4}};
  const Placement rows{.kind = Placement::Kind::kShard, .dim = 0, .split_factor = 1};
  const Placement columns{.kind = Placement::Kind::kShard, .dim = 1, .split_factor = 1};
  const ShardMap map({{tensor,
                       make_union_sharding({make_compact_sharding({{2}, {0, 1}}, {rows}),
                                            make_compact_sharding({{2}, {2, 3}}, {columns})})}});
  EXPECT_EQ(compare_after_change(map, -1, ""), std::vector<std::string>{});
  EXPECT_EQ(compare_after_change(map, 3, "tied|param").size(), 1U);
}

}  // namespace
}  // namespace dynatrain
