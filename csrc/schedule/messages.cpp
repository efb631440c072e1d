#include "schedule/messages.hpp"

#include "dynatrain/base/checked.hpp"

#include <utility>

namespace dynatrain {
namespace {

std::int64_t align_up(std::int64_t offset, std::int64_t alignment) {
  return checked_mul(ceil_div(offset, alignment), alignment);
}

std::int64_t size_of(const Part& part, const ShardMap& map) {
  return (part.end_elem - part.begin_elem) * map.tensor(part.tensor).dtype.size_bytes;
}

StageMessage pack(const Travel& travel, const PairList& list, const ShardMap& map, bool with_sums) {
  StageMessage message;
  message.peer = list.peer;
  for (const ListPart& piece : travel.packed) {
    const Part part = to_part(piece, list.moves);
    const std::int64_t begin = align_up(message.size_bytes, kPartAlignment);
    message.part_offsets_bytes.push_back(begin);
    message.size_bytes = begin + size_of(part, map);
    message.parts.push_back(part);
  }
  if (with_sums) {
    const auto num_sums = static_cast<std::int64_t>(travel.packed.size() + travel.singles.size());
    message.sums_offset_bytes = align_up(message.size_bytes, kSumBytes);
    message.size_bytes = message.sums_offset_bytes + num_sums * kSumBytes;
  }
  return message;
}

}  // namespace

Part to_part(const ListPart& part, const std::vector<Move>& moves) {
  const Move& move = moves[part.move];
  return {.tensor = move.tensor,
          .box = move.box,
          .begin_elem = part.begin_elem,
          .end_elem = part.end_elem};
}

std::vector<StageMessage> make_messages(const Travel& travel,
                                        const PairList& list,
                                        const ShardMap& map,
                                        Direction direction,
                                        bool with_sums) {
  std::vector<StageMessage> messages;
  if (!travel.packed.empty() || (with_sums && !travel.singles.empty())) {
    messages.push_back(pack(travel, list, map, with_sums));
  }
  for (const SinglePart& single : travel.singles) {
    StageMessage message;
    message.peer = list.peer;
    message.ordinal = messages.empty() ? 1 : messages.back().ordinal + 1;
    message.direct =
        direction == Direction::kSend ? single.is_direct_at_src : single.is_direct_at_dst;
    message.parts.push_back(to_part(single.part, list.moves));
    message.part_offsets_bytes.push_back(0);
    message.size_bytes = size_of(message.parts.front(), map);
    messages.push_back(std::move(message));
  }
  return messages;
}

std::int64_t place_messages(Stage& stage) {
  std::int64_t end = 0;
  for (std::vector<StageMessage>* messages : {&stage.sends, &stage.receives}) {
    for (StageMessage& message : *messages) {
      if (message.direct) {
        continue;
      }
      // A single one takes no more than it would in the packed message of its pair.
      const bool is_packed = message.ordinal == 0;
      end = align_up(end, is_packed ? kMessageAlignment : kPartAlignment);
      message.staging_offset_bytes = end;
      end = checked_add(end, message.size_bytes);
    }
  }
  return align_up(end, kMessageAlignment);
}

std::int64_t num_parts(const std::vector<StageMessage>& messages) {
  std::int64_t parts = 0;
  for (const StageMessage& message : messages) {
    parts += std::ssize(message.parts);
  }
  return parts;
}

}  // namespace dynatrain
