#include "dynatrain/kernels/cpu_copier.hpp"

#include "kernels/copier_conformance.hpp"

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

}  // namespace
}  // namespace dynatrain
