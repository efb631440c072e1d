#include "torch/packed_state.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <memory>
#include <new>
#include <thread>

namespace dynatrain {
namespace {

constexpr std::chrono::milliseconds kDeadline{20};
constexpr std::chrono::milliseconds kLate{200};

/// Ends every batch long after the deadline of whoever waits for it.
class LateCopier final : public Copier {
 public:
  ~LateCopier() override { thread_.join(); }
  std::unique_ptr<CopierMemory> allocate(std::int64_t /*size_bytes*/, Place /*place*/) override {
    throw std::bad_alloc();
  }
  void reserve(std::int64_t /*num_copies*/, int /*num_batches*/) override {}
  [[nodiscard]] Place place_of(const std::byte* /*memory*/) const override { return Place::kHost; }
  Token submit(const CopyBatch& /*batch*/,
               const AddressTable& /*addresses*/,
               std::span<const Token> /*after*/) override {
    thread_ = std::thread([completion = completion_] {
      std::this_thread::sleep_for(kLate);
      completion->set();
    });
    return Token(completion_);
  }
  [[nodiscard]] bool has_ended() const { return completion_->done(); }

 private:
  std::shared_ptr<HostCompletion> completion_ = std::make_shared<HostCompletion>();
  std::thread thread_;
};

// A copier reads its batch and writes the run until its token is done: whoever catches the error
// frees both.
TEST(PackedState, ACopyThatIsLateTouchesNothingOnceItHasFailed) {
  std::array<float, 4> live{};
  StateTable table;
  table.add({{"w|param", {4}, {"float32", 4}}, {}, {}, {}},
            {reinterpret_cast<std::byte*>(live.data()), {4}, {1}, sizeof(live)});
  const PackedState packed(table, 0);
  HostRun run(packed.size_bytes());
  LateCopier copier;

  EXPECT_THROW(packed.copy(copier, run, {}, deadline_in(kDeadline)), TransportError);

  EXPECT_TRUE(copier.has_ended());
}

}  // namespace
}  // namespace dynatrain
