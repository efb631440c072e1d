#include <gtest/gtest.h>

#include "schedule/random_schedules.hpp"
#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::between;
using testing::elements_of;
using testing::for_random_schedules;
using testing::holds;
using testing::Scheduled;

constexpr std::uint64_t kNumCases = 600;
constexpr std::uint64_t kNumCasesLong = 10000;

/// Adds one to every element that a part brings.
void count_part(const Scheduled& scheduled,
                const Part& part,
                std::vector<std::vector<int>>& counts) {
  const auto elements = elements_of(scheduled.source.tensor(part.tensor).shape, part.box);
  for (std::int64_t i = part.begin_elem; i < part.end_elem; ++i) {
    ++counts[part.tensor.index()][elements[static_cast<std::size_t>(i)]];
  }
}

void expect_coverage(const Scheduled& scheduled) {
  for (const Schedule& schedule : scheduled.schedules) {
    std::vector<std::vector<int>> counts;
    for (const auto& owners : scheduled.pair.needed) {
      counts.emplace_back(owners.size(), 0);
    }
    for (const Stage& stage : schedule.stages) {
      for (const StageMessage& message : stage.receives) {
        for (const Part& part : message.parts) {
          count_part(scheduled, part, counts);
        }
      }
      for (const Part& part : stage.locals) {
        count_part(scheduled, part, counts);
      }
    }
    for (std::size_t t = 0; t < counts.size(); ++t) {
      for (std::size_t e = 0; e < counts[t].size(); ++e) {
        ASSERT_EQ(counts[t][e], holds(scheduled.pair.needed[t][e], schedule.rank) ? 1 : 0)
            << "rank " << schedule.rank << " tensor " << t << " element " << e;
      }
    }
  }
}

/// Adds up a message from its parts alone: each at the next multiple of 16, then 8 bytes per part
/// of the pair and stage at a multiple of 8.
void expect_layout(const Scheduled& scheduled, const StageMessage& message, std::size_t num_parts) {
  std::int64_t end = 0;
  ASSERT_EQ(message.part_offsets_bytes.size(), message.parts.size());
  for (std::size_t i = 0; i < message.parts.size(); ++i) {
    ASSERT_LT(message.parts[i].begin_elem, message.parts[i].end_elem);
    while (end % 16 != 0) {
      ++end;
    }
    ASSERT_EQ(message.part_offsets_bytes[i], end);
    end += scheduled.size_bytes(message.parts[i]);
  }
  if (message.sums_offset_bytes >= 0) {
    while (end % 8 != 0) {
      ++end;
    }
    ASSERT_EQ(message.sums_offset_bytes, end);
    end += 8 * static_cast<std::int64_t>(num_parts);
  }
  ASSERT_EQ(message.size_bytes, end);
}

void expect_memory(const Scheduled& scheduled) {
  for (const Schedule& schedule : scheduled.schedules) {
    std::int64_t largest = 0;
    for (const Stage& stage : schedule.stages) {
      std::vector<std::pair<std::int64_t, std::int64_t>> used;
      for (const auto* messages : {&stage.sends, &stage.receives}) {
        for (const StageMessage& message : *messages) {
          if (!message.direct) {
            used.emplace_back(message.staging_offset_bytes,
                              message.staging_offset_bytes + message.size_bytes);
            ASSERT_EQ(message.staging_offset_bytes % (message.ordinal == 0 ? 64 : 16), 0);
          }
        }
      }
      std::ranges::sort(used);
      std::int64_t end = 0;
      for (const auto& [begin, message_end] : used) {
        ASSERT_GE(begin, end) << "two messages share staging bytes";
        end = message_end;
      }
      ASSERT_LE(end, stage.staging_bytes);
      ASSERT_LT(stage.staging_bytes, end + 64);
      largest = std::max(largest, stage.staging_bytes);
    }
    ASSERT_EQ(schedule.slot_bytes, largest);
    ASSERT_EQ(schedule.staging_peak_bytes, schedule.stages.size() == 1 ? largest : 2 * largest);
    ASSERT_LE(2 * largest, scheduled.options.staging_budget_bytes) << "rank " << schedule.rank;
  }
}

// The switch is made of stages: what falls between two of them would be lost.
TEST(Law2Coverage, TheStagesTogetherBringEveryNeededElementOnce) {
  for_random_schedules(kNumCases, expect_coverage);
}

// The same over more cases than a developer waits for.
TEST(Law2CoverageLong, TheStagesTogetherBringEveryNeededElementOnce) {
  for_random_schedules(kNumCasesLong, expect_coverage);
}

// Ranks cut alone. A message that the two ends cut differently would hang or scramble the switch.
TEST(Law4Agreement, BothEndsExpectTheSameMessagesInEveryStage) {
  for_random_schedules(kNumCases, [](const Scheduled& scheduled) {
    for (const Schedule& sender : scheduled.schedules) {
      for (const Schedule& receiver : scheduled.schedules) {
        ASSERT_EQ(sender.stages.size(), receiver.stages.size());
        for (std::size_t k = 0; k < sender.stages.size(); ++k) {
          const auto sent = between(sender.stages[k].sends, receiver.rank);
          const auto received = between(receiver.stages[k].receives, sender.rank);
          ASSERT_EQ(sent.size(), received.size());
          for (std::size_t i = 0; i < sent.size(); ++i) {
            ASSERT_EQ(sent[i].ordinal, received[i].ordinal);
            // One of the two has a reason for a message of its own, and a packed one has none.
            ASSERT_EQ(sent[i].direct || received[i].direct, sent[i].ordinal > 0);
            ASSERT_EQ(sent[i].parts, received[i].parts);
            ASSERT_EQ(sent[i].part_offsets_bytes, received[i].part_offsets_bytes);
            ASSERT_EQ(sent[i].size_bytes, received[i].size_bytes);
            ASSERT_EQ(sent[i].sums_offset_bytes, received[i].sums_offset_bytes);
          }
        }
      }
    }
  });
}

// Staging is reserved before the first byte moves; a slot over the promise would be a surprise
// out-of-memory in the middle of a switch.
TEST(Law5Memory, EverySlotStaysWithinHalfOfTheBudget) {
  for_random_schedules(kNumCases, expect_memory);
}

// The same over more cases than a developer waits for.
TEST(Law5MemoryLong, EverySlotStaysWithinHalfOfTheBudget) {
  for_random_schedules(kNumCasesLong, expect_memory);
}

// The prediction counts alignment and sums: bytes of a message are exactly what its parts add up
// to.
TEST(Law5Memory, MessageSizesAreWhatTheirPartsAddUpTo) {
  for_random_schedules(kNumCases, [](const Scheduled& scheduled) {
    for (const Schedule& schedule : scheduled.schedules) {
      for (const Stage& stage : schedule.stages) {
        std::map<int, std::size_t> parts_of_peer;
        for (const StageMessage& message : stage.sends) {
          parts_of_peer[message.peer] += message.parts.size();
        }
        for (const StageMessage& message : stage.sends) {
          const bool has_sums = scheduled.options.with_sums && message.ordinal == 0;
          ASSERT_EQ(message.sums_offset_bytes >= 0, has_sums);
          expect_layout(scheduled, message, parts_of_peer[message.peer]);
        }
      }
    }
  });
}

// Deadlock freedom rests on it: per peer and stage the messages are few and numbered by the plan,
// and an absent number is absent on both ends (see docs/design/schedule.md).
TEST(Law6Progress, MessagesPerPeerAndStageAreNumberedAndCapped) {
  for_random_schedules(kNumCases, [](const Scheduled& scheduled) {
    for (const Schedule& schedule : scheduled.schedules) {
      for (const Stage& stage : schedule.stages) {
        for (const StageMessage& message : stage.sends) {
          const auto messages = between(stage.sends, message.peer);
          int ordinal = messages.front().ordinal;
          ASSERT_LE(ordinal, scheduled.options.with_sums ? 0 : 1);
          for (const StageMessage& next : messages) {
            ASSERT_EQ(next.ordinal, ordinal++);
            ASSERT_TRUE(next.ordinal > 0 || !next.direct);
          }
          ASSERT_LE(ordinal - 1, scheduled.options.max_direct_per_pair);
        }
      }
    }
  });
}

/// Where element `index` of the move's box lies in the rank's buffer, by the plainest arithmetic.
std::int64_t address_of(const std::vector<Fragment>& fragments,
                        const Box& box,
                        std::int64_t index) {
  std::vector<std::int64_t> place(static_cast<std::size_t>(box.rank()));
  for (int d = box.rank() - 1; d >= 0; --d) {
    const std::int64_t extent = box.end[d] - box.begin[d];
    place[static_cast<std::size_t>(d)] = box.begin[d] + index % extent;
    index /= extent;
  }
  for (const Fragment& fragment : fragments) {
    std::int64_t address = fragment.view.offset_elems;
    bool is_inside = true;
    for (int d = 0; d < box.rank(); ++d) {
      const std::int64_t at = place[static_cast<std::size_t>(d)];
      is_inside = is_inside && fragment.box.begin[d] <= at && at < fragment.box.end[d];
      address += (at - fragment.box.begin[d]) * fragment.view.strides[d];
    }
    if (is_inside) {
      return address;
    }
  }
  return -1;
}

/// Whether the elements of a part lie one after another.
bool is_contiguous(const std::vector<Fragment>& fragments, const Part& part) {
  const std::int64_t first = address_of(fragments, part.box, part.begin_elem);
  for (std::int64_t i = part.begin_elem; i < part.end_elem; ++i) {
    if (address_of(fragments, part.box, i) != first + i - part.begin_elem) {
      return false;
    }
  }
  return true;
}

// A message that is direct at an end is one pointer and one length there: a gap would send, or
// write, other bytes.
TEST(DirectMessages, AreContiguousWhereTheyAreDirectAndLong) {
  std::map<std::pair<bool, bool>, std::size_t> num_direct;
  for_random_schedules(kNumCases, [&](const Scheduled& scheduled) {
    for (const Schedule& sender : scheduled.schedules) {
      for (std::size_t k = 0; k < sender.stages.size(); ++k) {
        for (const StageMessage& sent : sender.stages[k].sends) {
          const auto peer = std::ranges::find(scheduled.schedules, sent.peer, &Schedule::rank);
          const auto received = between(peer->stages[k].receives, sender.rank);
          const auto same = std::ranges::find(received, sent.ordinal, &StageMessage::ordinal);
          if (sent.ordinal == 0) {
            continue;
          }
          ++num_direct[{sent.direct, same->direct}];
          ASSERT_EQ(sent.parts.size(), 1U);
          ASSERT_GE(sent.size_bytes, scheduled.options.direct_threshold_bytes);
          const Part& part = sent.parts[0];
          ASSERT_TRUE(!sent.direct ||
                      is_contiguous(scheduled.source.fragments(part.tensor, sender.rank), part));
          ASSERT_TRUE(!same->direct ||
                      is_contiguous(scheduled.target.fragments(part.tensor, sent.peer), part));
        }
      }
    }
  });
  EXPECT_GT((num_direct[{true, true}]), 1000U) << "the cases hardly tried direct messages";
  EXPECT_GT((num_direct[{true, false}]), 100U);
  EXPECT_GT((num_direct[{false, true}]), 100U);
}

}  // namespace
}  // namespace dynatrain
