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
    const auto num_sums = static_cast<std::int64_t>(travel.packed.size() + travel.direct.size());
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
                                        bool with_sums) {
  std::vector<StageMessage> messages;
  if (!travel.packed.empty() || (with_sums && !travel.direct.empty())) {
    messages.push_back(pack(travel, list, map, with_sums));
  }
  for (std::size_t i = 0; i < travel.direct.size(); ++i) {
    StageMessage message;
    message.peer = list.peer;
    message.ordinal = static_cast<int>(i) + 1;
    message.direct = true;
    message.parts.push_back(to_part(travel.direct[i], list.moves));
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
      if (!message.direct) {
        message.staging_offset_bytes = end;
        end = checked_add(end, align_up(message.size_bytes, kMessageAlignment));
      }
    }
  }
  return end;
}

std::int64_t num_parts(const std::vector<StageMessage>& messages) {
  std::int64_t parts = 0;
  for (const StageMessage& message : messages) {
    parts += std::ssize(message.parts);
  }
  return parts;
}

}  // namespace dynatrain
