#pragma once

#include "kernels/cuda/stream_device.hpp"
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace dynatrain {

/// Memory of tables, used again and again: a device stops where memory is taken, and where it is
/// freed. There is never more of it than was in use at a time.
/// Threads  any.
class TablePool : public std::enable_shared_from_this<TablePool> {
 public:
  /// Ownership  keeps a reference to the device; it is made by std::make_shared.
  explicit TablePool(StreamDevice& device) : device_(device) {}

  /// The smallest free memory that is large enough; else the largest free one is freed and new is
  /// made. It comes back when its last owner lets go of it, and is freed when the pool has gone.
  [[nodiscard]] std::shared_ptr<TableMemory> take(std::int64_t size_bytes);
  /// Makes memory until `num_memories` of that size are free.
  void reserve(std::int64_t size_bytes, int num_memories);

 private:
  struct Taken {
    std::unique_ptr<TableMemory> fits;
    std::unique_ptr<TableMemory> too_small;  ///< the largest, where none fits
  };
  [[nodiscard]] Taken take_free(std::int64_t size_bytes);
  void give_back(std::unique_ptr<TableMemory> memory);

  StreamDevice& device_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<TableMemory>> free_;  ///< the smallest first
};

}  // namespace dynatrain
