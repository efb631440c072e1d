// Writes what each rank of a small world does in each stage, as tables for stage_protocol.pml.
//
//   step_tables <world> <number of stages>
//
// Every row is a call of a macro that the model defines: constants cost a model checker nothing.

#include "execution/notes.hpp"
#include "spin/worlds.hpp"
#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace dynatrain::testing {
namespace {

/// Storages of a rank, one bit each; the model has a byte for them.
constexpr int kMaxStorages = 8;
/// The stage of an end of a message that no rank has: one that never begins.
constexpr int kNoStage = 255;

/// One end of a message, as its rank's schedule has it.
struct End {
  int stage = kNoStage;
  std::int64_t size_bytes = 0;
  std::int64_t part_bytes = 0;
  /// Where a direct message is read from or written to; none of a packed one, it lies in a slot.
  unsigned storages = 0;
};

/// What meets on the wire: the same src, dst and tag.
struct Ends {
  End sent;
  End received;
};

using Key = std::tuple<int, int, std::uint32_t>;

/// Rows of one table: `#define FOR_EACH_<name>(ROW)` and a call of ROW for each.
class Table {
 public:
  explicit Table(std::string_view name) { text_ << "#define FOR_EACH_" << name << "(ROW)"; }

  template <class... Values>
  void add(const Values&... values) {
    text_ << " \\\n  ROW(";
    const char* separator = "";
    ((text_ << separator << values, separator = ", "), ...);
    text_ << ")";
  }
  [[nodiscard]] std::string text() const { return text_.str() + "\n\n"; }

 private:
  std::ostringstream text_;
};

std::int64_t bytes_of(const World& world, const Part& part) {
  return (part.end_elem - part.begin_elem) * world.source.tensor(part.tensor).dtype.size_bytes;
}

/// Adds the storages of `parts` to a set of bits.
unsigned with(unsigned set, const std::vector<Part>& parts, const Storages& storages) {
  for (const Part& part : parts) {
    set |= 1U << static_cast<unsigned>(storages.of_tensor.at(part.tensor.index()));
  }
  return set;
}

End end_of(const World& world,
           std::size_t stage,
           const StageMessage& message,
           const Storages& storages) {
  End end{.stage = static_cast<int>(stage),
          .size_bytes = message.size_bytes,
          .part_bytes = 0,
          .storages = message.direct ? with(0, message.parts, storages) : 0};
  for (const Part& part : message.parts) {
    end.part_bytes += bytes_of(world, part);
  }
  return end;
}

/// Both ends of all messages. Tags are counted by the counter of the real run, in its order.
std::map<Key, Ends> messages_of(const World& world) {
  std::map<Key, Ends> found;
  for (const Schedule& schedule : world.schedules) {
    const int rank = schedule.rank;
    const auto index = static_cast<std::size_t>(rank);
    TagCounter tags(world.num_ranks, 0);
    for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
      for (const StageMessage& message : schedule.stages[k].receives) {
        found[{message.peer, rank, tags.next_receive(message.peer)}].received =
            end_of(world, k, message, world.needed[index]);
      }
      for (const StageMessage& message : schedule.stages[k].sends) {
        found[{rank, message.peer, tags.next_send(message.peer)}].sent =
            end_of(world, k, message, world.held[index]);
      }
    }
  }
  return found;
}

/// ROW(rank, stage, sends, receives, storages read, storages written, packs, unpacks or copies)
std::string stages_table(const World& world) {
  Table table("STAGE");
  for (const Schedule& schedule : world.schedules) {
    const auto rank = static_cast<std::size_t>(schedule.rank);
    for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
      const Stage& stage = schedule.stages[k];
      unsigned read = with(0, stage.locals, world.held[rank]);
      unsigned written = with(0, stage.locals, world.needed[rank]);
      for (const StageMessage& message : stage.sends) {
        read = with(read, message.parts, world.held[rank]);
      }
      for (const StageMessage& message : stage.receives) {
        written = with(written, message.parts, world.needed[rank]);
      }
      const bool packs = !stage.sends.empty();
      const bool unpacks = !stage.receives.empty() || !stage.locals.empty();
      table.add(rank, k, stage.sends.size(), stage.receives.size(), read, written, packs, unpacks);
    }
  }
  return table.text();
}

/// ROW(message, src, its stage, its size, storages read directly,
///     dst, its stage, its size, storages written directly, bytes of parts)
std::string messages_table(const World& world) {
  Table table("MESSAGE");
  int number = 0;
  for (const auto& [key, ends] : messages_of(world)) {
    const auto& [src, dst, tag] = key;
    const auto& [sent, received] = ends;
    table.add(number++,
              src,
              sent.stage,
              sent.size_bytes,
              sent.storages,
              dst,
              received.stage,
              received.size_bytes,
              received.storages,
              received.part_bytes);
  }
  return "#define NUM_MESSAGES " + std::to_string(number) + "\n\n" + table.text();
}

/// ROW(rank, storages freed, stage) and, in the end, those behind the last; the same of the taken.
std::string memory_tables(const World& world) {
  Table freed("FREED");
  Table taken("TAKEN");
  const auto bits_of = [](const std::vector<int>& storages) {
    unsigned bits = 0;
    for (const int storage : storages) {
      bits |= 1U << static_cast<unsigned>(storage);
    }
    return bits;
  };
  for (std::size_t rank = 0; rank < world.streams.size(); ++rank) {
    const StreamPlan& plan = world.streams[rank];
    for (std::size_t k = 0; k < plan.stages.size(); ++k) {
      freed.add(rank, k, bits_of(plan.stages[k].freed));
      taken.add(rank, k, bits_of(plan.stages[k].taken));
    }
    freed.add(rank, plan.stages.size(), bits_of(plan.freed_last));
  }
  return freed.text() + taken.text();
}

/// The number of stages that `reader` must land until it has all it ever gets of some tensors: by
/// what it receives and copies, not by what is sent, which is what the plan goes by.
std::size_t stages_to_land(const Schedule& reader, const Storages& storages, int storage) {
  std::size_t landed = 0;
  const auto is_there = [&](const Part& part) {
    return storages.of_tensor[part.tensor.index()] == storage;
  };
  for (std::size_t k = 0; k < reader.stages.size(); ++k) {
    const Stage& stage = reader.stages[k];
    const bool gets = std::ranges::any_of(stage.receives, [&](const StageMessage& message) {
      return std::ranges::any_of(message.parts, is_there);
    });
    if (gets || std::ranges::any_of(stage.locals, is_there)) {
      landed = k + 1;
    }
  }
  return landed;
}

/// ROW(owner, storage of its source, reader, stages that the reader has landed when it goes)
std::string needs_table(const World& world) {
  Table table("NEED");
  for (std::size_t owner = 0; owner < world.held.size(); ++owner) {
    const Storages& storages = world.held[owner];
    const int num_storages = static_cast<int>(storages.size_bytes.size());
    for (int storage = 0; storage < num_storages; ++storage) {
      for (const Schedule& reader : world.schedules) {
        if (const std::size_t stages = stages_to_land(reader, storages, storage); stages > 0) {
          table.add(owner, 1U << static_cast<unsigned>(storage), reader.rank, stages);
        }
      }
    }
  }
  return table.text();
}

/// ROW(rank, bytes that its plan receives, storages of its source, storages of its target)
std::string ranks_table(const World& world) {
  Table table("RANK");
  for (std::size_t rank = 0; rank < world.plans.size(); ++rank) {
    const auto all = [](const Storages& storages) {
      if (storages.size_bytes.size() > kMaxStorages) {
        throw std::invalid_argument("a rank of the world has more storages than the model");
      }
      return (1U << storages.size_bytes.size()) - 1U;
    };
    table.add(rank,
              world.plans[rank].traffic.received_bytes,
              all(world.held[rank]),
              all(world.needed[rank]));
  }
  return table.text();
}

std::string tables_of(const World& world) {
  return "#define NUM_RANKS " + std::to_string(world.num_ranks) + "\n#define NUM_STAGES " +
         std::to_string(world.schedules.front().stages.size()) + "\n" + messages_table(world) +
         stages_table(world) + memory_tables(world) + needs_table(world) + ranks_table(world);
}

}  // namespace
}  // namespace dynatrain::testing

int main(int num_arguments, char** arguments) {
  const std::vector<std::string> words(arguments, arguments + num_arguments);
  if (words.size() != 3) {
    std::cerr << "step_tables <world> <number of stages>\n";
    return 2;
  }
  try {
    std::cout << dynatrain::testing::tables_of(
        dynatrain::testing::make_world(words[1], std::stoi(words[2])));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
