#pragma once

#include <cstddef>

namespace dynatrain {

/// Ends a mapping, by a thread of its own where it is large: its pages, of 4 KiB, take the system
/// 80 ms for each GB, and whoever waits for that stands still. Nothing may touch it any more. Any
/// thread.
void unmap_meanwhile(const std::byte* data, std::size_t size_bytes) noexcept;

/// Waits until all such mappings of this process have gone; for as long as that can take. Who takes
/// memory next, or asks how much is left, may count on theirs.
void wait_for_unmapping();

}  // namespace dynatrain
