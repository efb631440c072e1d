#include "dynatrain/kernels/cpu_copier.hpp"

#include "dynatrain/base/error.hpp"

#include "kernels/copier_conformance.hpp"
#include "no_more_threads.hpp"
#include <cstdlib>

namespace dynatrain {
namespace {

INSTANTIATE_TEST_SUITE_P(Cpu,
                         CopierConformance,
                         ::testing::Values(CopierCase{.name = "one_thread",
                                                      .make = [] { return make_cpu_copier(1); }},
                                           CopierCase{.name = "four_threads",
                                                      .make = [] { return make_cpu_copier(4); }}),
                         [](const auto& test) { return test.param.name; });

// A copier may go while a batch still waits for a peer that never came; nobody may hang on it.
TEST(CpuCopierShutdown, BatchThatStillWaitsFailsAndReadyOnesFinish) {
  std::vector<std::byte> src(8, std::byte{1});
  std::vector<std::byte> dst(8);
  AddressTable addresses;
  addresses.set(BufferId(0), src.data(), 8);
  addresses.set(BufferId(1), dst.data(), 8);
  CopyBatch batch;
  CopyDescriptor copy;
  copy.src = BufferId(0);
  copy.dst = BufferId(1);
  copy.copy = {.extents = {8},
               .src_offset_elems = 0,
               .dst_offset_elems = 0,
               .src_strides = {1},
               .dst_strides = {1}};
  batch.copies.push_back(copy);
  const std::array never{Token(std::make_shared<HostCompletion>())};
  auto copier = make_cpu_copier(2);
  const Token waiting = copier->submit(batch, addresses, never);
  const Token ready = copier->submit(batch, addresses, {});
  copier.reset();
  const Deadline deadline = deadline_in(std::chrono::seconds(10));
  EXPECT_THROW(waiting.wait(deadline), InternalError);
  ready.wait(deadline);
  EXPECT_EQ(dst, src);
}

/// Whether a copier of too many threads is refused, and one of two works afterwards.
bool outlives_a_lack_of_threads() {
  bool is_refused = false;
  with_few_threads([&is_refused] {
    try {
      const auto copier = make_cpu_copier(1000);
    } catch (const DeviceError&) {
      is_refused = true;
    }
  });
  std::vector<std::byte> src(8, std::byte{1});
  std::vector<std::byte> dst(8);
  AddressTable addresses;
  addresses.set(BufferId(0), src.data(), 8);
  addresses.set(BufferId(1), dst.data(), 8);
  CopyBatch batch;
  batch.copies.push_back({.src = BufferId(0),
                          .dst = BufferId(1),
                          .copy = {.extents = {8},
                                   .src_offset_elems = 0,
                                   .dst_offset_elems = 0,
                                   .src_strides = {1},
                                   .dst_strides = {1}}});
  const auto copier = make_cpu_copier(2);
  copier->submit(batch, addresses, {}).wait(deadline_in(std::chrono::seconds(10)));
  return is_refused && dst == src;
}

// Threads that stood while the constructor threw ended the process: num_threads=10**6 was SIGABRT.
TEST(CpuCopierDeathTest, ThreadsThatTheSystemDoesNotGiveAreAnErrorAndTheProcessLives) {
  DYNATRAIN_SKIP_UNDER_SANITIZERS();
  EXPECT_EXIT(std::exit(outlives_a_lack_of_threads() ? 0 : 1), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace dynatrain
