#include "kernels/copier_conformance.hpp"

namespace dynatrain {

// Widths take different loops, strides different runs; bytes next to the box must stay untouched.
TEST_P(CopierConformance, RandomStridedCopiesEqualElementByElementCopies) {
  for (const std::int64_t elem_bytes : {1, 2, 3, 4, 5, 8, 12, 16, 24}) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      SCOPED_TRACE("elem_bytes " + std::to_string(elem_bytes) + " seed " + std::to_string(seed));
      std::mt19937_64 random(seed);
      const Bytes src = noise(64U << 10U, seed);
      Bytes readable = src;
      Bytes dst = noise(64U << 10U, seed + 1000);
      Bytes expected = dst;
      use(readable, dst);
      CopyBatch batch;
      batch.copies.push_back(random_copy(elem_bytes, random));
      batch.copies.back().sum_slot = 0;
      batch.copies.back().first_elem = static_cast<std::int64_t>(random() % 1000);
      std::array<std::uint64_t, 1> sums{};
      batch.sums = sums.data();
      const std::uint64_t expected_sum = expect_copy(batch.copies.back(), src, expected);
      submit(batch).wait(late());
      EXPECT_EQ(dst, expected);
      EXPECT_EQ(sums[0], expected_sum);
      EXPECT_EQ(readable, src);
    }
  }
}

// One huge box must not leave the other threads idle, nor ten thousand tiny ones; whatever the cut
// between the threads is, every byte and every sum must be there once.
TEST_P(CopierConformance, HugeAndTinyBoxesInOneBatchAllArrive) {
  constexpr std::int64_t kHuge = (5LL << 20U) + 3;
  constexpr std::int64_t kTiny = 7;
  constexpr std::int64_t kNumTiny = 10000;
  Bytes src = noise(static_cast<std::size_t>(kHuge + kTiny * kNumTiny), 1);
  Bytes dst(src.size());
  use(src, dst);
  CopyBatch batch;
  batch.copies.push_back(run(0, 0, kHuge));
  for (std::int64_t i = 0; i < kNumTiny; ++i) {
    batch.copies.push_back(run(kHuge + i * kTiny, kHuge + i * kTiny, kTiny));
    batch.copies.back().first_elem = i * kTiny;
  }
  for (CopyDescriptor& copy : batch.copies) {
    copy.sum_slot = &copy == batch.copies.data() ? 0 : 1;
  }
  std::array<std::uint64_t, 2> sums{};
  batch.sums = sums.data();
  CopyTimes times;
  batch.times = &times;
  submit(batch).wait(late());
  EXPECT_EQ(dst, src);
  Bytes scratch(src.size());
  EXPECT_EQ(sums[0], expect_copy(run(0, 0, kHuge), src, scratch));
  EXPECT_EQ(sums[1], expect_copy(run(kHuge, kHuge, kTiny * kNumTiny), src, scratch));
  EXPECT_LE(times.begin, times.end);
}

// A direct message arrives without a copy; its bytes are summed where they lie.
TEST_P(CopierConformance, CopyWithoutTargetOnlySums) {
  Bytes src = noise(4096, 3);
  Bytes dst = src;
  use(src, dst);
  CopyBatch batch;
  batch.copies.push_back(run(5, 0, 3001));
  batch.copies.back().dst = kNone;
  batch.copies.back().sum_slot = 0;
  std::array<std::uint64_t, 1> sums{};
  batch.sums = sums.data();
  const std::uint64_t expected = expect_copy(batch.copies.back(), src, dst);
  submit(batch).wait(late());
  EXPECT_EQ(sums[0], expected);
}

// The number that two layouts agree on: indices are the whole tensor's, wherever the bytes lie.
TEST_P(CopierConformance, FingerprintsAreSumsOfTheTermsOfAllElements) {
  for (const std::int64_t elem_bytes : {1, 2, 3, 4, 8, 12, 16}) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      SCOPED_TRACE("elem_bytes " + std::to_string(elem_bytes) + " seed " + std::to_string(seed));
      std::mt19937_64 random(seed);
      Bytes src = noise(64U << 10U, seed);
      Bytes dst(1);
      use(src, dst);
      CopyBatch batch;
      batch.term = SumTerm::kFingerprint;
      batch.copies.push_back(random_copy(elem_bytes, random));
      batch.copies.back().dst = kNone;
      batch.copies.back().sum_slot = 0;
      batch.copies.back().sum_key = random();
      std::array<std::uint64_t, 1> sums{5};
      batch.sums = sums.data();
      submit(batch).wait(late());
      EXPECT_EQ(sums[0], 5 + expected_fingerprint(batch.copies.back(), src));
    }
  }
}

// A fingerprint that also stored would have to mean two things by its dst side.
TEST_P(CopierConformance, FingerprintsWithATargetAreRefused) {
  Bytes src = noise(64, 11);
  Bytes dst(64);
  use(src, dst);
  CopyBatch batch;
  batch.term = SumTerm::kFingerprint;
  batch.copies.push_back(run(0, 0, 64));
  batch.copies.back().sum_slot = 0;
  std::array<std::uint64_t, 1> sums{};
  batch.sums = sums.data();
  EXPECT_THROW(submit(batch).wait(late()), InternalError);
  EXPECT_EQ(dst, Bytes(64));
}

// Stages without local moves are normal, and so are boxes with an empty side.
TEST_P(CopierConformance, EmptyBatchAndEmptyBoxDoNothing) {
  Bytes src(8);
  Bytes dst = noise(8, 1);
  const Bytes before = dst;
  use(src, dst);
  const CopyBatch nothing;
  submit(nothing).wait(late());
  CopyBatch empty_box;
  empty_box.copies.push_back(run(100, 100, 0));
  submit(empty_box).wait(late());
  EXPECT_EQ(dst, before);
}

// An unpack that started before its message arrived would copy the bytes of an older stage.
TEST_P(CopierConformance, BatchStartsOnlyAfterItsTokens) {
  Bytes src(64);
  Bytes dst(64);
  use(src, dst);
  CopyBatch batch;
  batch.copies.push_back(run(0, 0, 64));
  auto arrival = std::make_shared<HostCompletion>();
  const std::array after{Token(arrival)};
  const Token unpack = submit(batch, after);
  EXPECT_FALSE(unpack.done());
  const Bytes arrived = noise(64, 4);
  std::copy(arrived.begin(), arrived.end(), src.begin());
  arrival->set();
  unpack.wait(late());
  EXPECT_EQ(dst, arrived);
}

// Packing stage k+1 must go on while stage k-1 still waits for the wire.
TEST_P(CopierConformance, WaitingBatchesDoNotHoldUpReadyOnes) {
  Bytes src = noise(64, 5);
  Bytes dst(64);
  use(src, dst);
  std::vector<CopyBatch> waiting(32);
  auto arrival = std::make_shared<HostCompletion>();
  const std::array after{Token(arrival)};
  std::vector<Token> tokens;
  for (CopyBatch& batch : waiting) {
    const auto at = static_cast<std::int64_t>(tokens.size());
    batch.copies.push_back(run(at, at, 1));
    tokens.push_back(submit(batch, after));
  }
  CopyBatch ready;
  ready.copies.push_back(run(32, 32, 32));
  submit(ready).wait(late());
  EXPECT_EQ(Bytes(dst.begin() + 32, dst.end()), Bytes(src.begin() + 32, src.end()));
  arrival->set();
  wait_all(tokens, late());
  EXPECT_EQ(dst, src);
}

// Batches are ordered by tokens alone; a chain of them must run in the order of the chain.
TEST_P(CopierConformance, ChainOfBatchesRunsInOrder) {
  Bytes src = noise(257, 6);
  Bytes dst(257);
  use(src, dst);
  addresses_.set(kSrc, dst.data(), 257);
  dst[0] = std::byte{42};
  std::vector<CopyBatch> chain(256);
  Token last;
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    chain[i].copies.push_back(run(at, at + 1, 1));
    const std::array after{last};
    last = submit(chain[i], after);
  }
  last.wait(late());
  EXPECT_EQ(dst, Bytes(257, std::byte{42}));
}

// If the message failed, unpacking what lies in the slot would write garbage.
TEST_P(CopierConformance, FailedTokenBeforeABatchIsItsFailureAndNothingIsWritten) {
  Bytes src = noise(64, 7);
  Bytes dst(64);
  use(src, dst);
  CopyBatch batch;
  batch.copies.push_back(run(0, 0, 64));
  auto arrival = std::make_shared<HostCompletion>();
  const std::array after{Token(arrival)};
  const Token unpack = submit(batch, after);
  arrival->fail(std::make_exception_ptr(TransportError("peer died", 3, -1, false)));
  EXPECT_THROW(unpack.wait(late()), TransportError);
  EXPECT_EQ(dst, Bytes(64));
}

// A slot's sums are added to, and what lay there is of an older stage; a range that was zeroed
// while the batch still waited would wipe sums that are on their way.
TEST_P(CopierConformance, RangesAreZeroedAfterTheTokensAndBeforeTheSums) {
  const auto memory = copier_->allocate(64, Place::kHost);
  auto* const words = reinterpret_cast<std::uint64_t*>(memory->data());
  std::fill_n(words, 8, 0x5555555555555555U);
  Bytes src = noise(4096, 9);
  Bytes dst(4096);
  use(src, dst);
  CopyBatch batch;
  batch.copies.push_back(run(0, 0, 4096));
  batch.copies.back().sum_slot = 1;
  batch.sums = words;
  batch.zeroed.emplace_back(memory->data(), 16);
  auto arrival = std::make_shared<HostCompletion>();
  const std::array after{Token(arrival)};
  const Token copied = submit(batch, after);
  EXPECT_EQ(words[0], 0x5555555555555555U);
  arrival->set();
  copied.wait(late());
  Bytes scratch(4096);
  EXPECT_EQ(words[0], 0U);
  EXPECT_EQ(words[1], expect_copy(run(0, 0, 4096), src, scratch));
  EXPECT_EQ(words[2], 0x5555555555555555U) << "beside the range";
}

// Sums are compared on the host, wherever they were added up.
TEST_P(CopierConformance, BytesAreReadBackAfterTheLastCopy) {
  const auto memory = copier_->allocate(8192, Place::kHost);
  Bytes src = noise(100'000, 10);
  Bytes dst(100'000);
  use(src, dst);
  CopyBatch batch;
  batch.copies.push_back(run(0, 0, 100'000));
  batch.read_back.push_back({.src = dst.data() + 50'000, .host = memory->data(), .size_bytes = 99});
  batch.read_back.push_back(
      {.src = dst.data() + 99'000, .host = memory->data() + 99, .size_bytes = 1000});
  submit(batch).wait(late());
  EXPECT_TRUE(std::equal(memory->data(), memory->data() + 99, src.data() + 50'000));
  EXPECT_TRUE(std::equal(memory->data() + 99, memory->data() + 1099, src.data() + 99'000));
  EXPECT_EQ(memory->data()[1099], std::byte{0}) << "memory comes zeroed";
}

// A wrong descriptor is our bug; it must not become somebody else's corrupted memory. The good copy
// ahead of the bad one shows that the whole batch is checked before its first byte is written.
TEST_P(CopierConformance, CopyThatWouldLeaveItsBufferIsRefusedBeforeAnythingIsWritten) {
  Bytes src = noise(64, 8);
  Bytes dst(64);
  use(src, dst);
  std::vector<CopyDescriptor> bad{run(0, 1, 64), run(1, 0, 64), run(-1, 0, 8), run(0, -1, 8)};
  bad.push_back(run(0, 0, 2));
  bad.back().copy.dst_strides = {std::int64_t{1} << 62U};
  bad.push_back(run(0, 0, 8));
  bad.back().dst = BufferId(9);
  for (const CopyDescriptor& copy : bad) {
    CopyBatch batch;
    batch.copies = {run(0, 0, 8), copy};
    EXPECT_THROW(submit(batch).wait(late()), InternalError);
  }
  EXPECT_EQ(dst, Bytes(64));
}

}  // namespace dynatrain
