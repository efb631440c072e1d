#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <set>
#include <tuple>
#include <vector>

/// What does one thing after the other in virtual time, and who waits for it.
namespace dynatrain::virtual_time {

struct Queue;

/// A message that has not begun. Ordered by what it may begin at, then in circle order.
struct Pending {
  double begin = 0;  ///< or later, where links are taken
  std::size_t turn = 0;
  int src = 0;
  int dst = 0;
  std::int64_t size_bytes = 0;
  Queue* heard_by = nullptr;  ///< the queue that it has waited for, while it is tried again

  [[nodiscard]] auto key() const { return std::tuple(begin, turn, src, dst); }
  friend auto operator<=>(const Pending& one, const Pending& other) {
    return one.key() <=> other.key();
  }
  friend bool operator==(const Pending& one, const Pending& other) {
    return one.key() == other.key();
  }
};

using FirstFirst = std::priority_queue<Pending, std::vector<Pending>, std::greater<>>;

/// One thing after the other.
struct Queue {
  double free_at = 0;
  FirstFirst waiters;       ///< by circle order: all of them begin when it is free
  std::set<Pending> heard;  ///< of those that have waited, who are tried again
};

/// A queue, and how long something has it.
struct Claim {
  Queue* queue = nullptr;
  double seconds = 0;
};

/// The first moment from which all of them can be had.
template <std::size_t kNumClaims>
double first_begin(double from, const std::array<Claim, kNumClaims>& claims) {
  for (const Claim& claim : claims) {
    from = claim.seconds > 0 ? std::max(from, claim.queue->free_at) : from;
  }
  return from;
}

/// Has all of them from one moment on, each for its own time, and returns that moment.
template <std::size_t kNumClaims>
double take(double from, const std::array<Claim, kNumClaims>& claims) {
  const double begin = first_begin(from, claims);
  for (const Claim& claim : claims) {
    if (claim.seconds > 0) {
      claim.queue->free_at = begin + claim.seconds;
    }
  }
  return begin;
}

/// The queue of these that is free last.
template <std::size_t kNumClaims>
Queue& last_free(const std::array<Claim, kNumClaims>& claims) {
  Queue* last = nullptr;
  for (const Claim& claim : claims) {
    if (claim.seconds > 0 && (last == nullptr || claim.queue->free_at > last->free_at)) {
      last = claim.queue;
    }
  }
  return *last;
}

template <std::size_t kNumClaims>
double longest(const std::array<Claim, kNumClaims>& claims) {
  double seconds = 0;
  for (const Claim& claim : claims) {
    seconds = std::max(seconds, claim.seconds);
  }
  return seconds;
}

}  // namespace dynatrain::virtual_time
