#include "execution/program.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/geometry/view.hpp"

#include "execution/fragment_finder.hpp"
#include "execution/part_pieces.hpp"
#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr BufferId kNowhere{-1};

/// One side of a copy: a fragment's memory, or bytes that lie densely from an offset on.
struct End {
  BufferId buffer;
  FragmentFinder* finder = nullptr;  ///< null: dense
  std::int64_t offset_bytes = 0;     ///< of the part, when dense
};

class ProgramBuilder {
 public:
  ProgramBuilder(const ShardMap& source, const ShardMap& target, int rank)
      : map_(source), source_(source, rank), target_(target, rank) {}

  void add_sends(StageProgram& program, const std::vector<StageMessage>& messages, bool with_sums);
  void add_receives(StageProgram& program,
                    const std::vector<StageMessage>& messages,
                    bool with_sums);
  void add_local(StageProgram& program, const Part& part);
  void add_pull(
      StageProgram& program, const Part& part, BufferId mapped, FragmentFinder& peer, int sum_slot);
  /// Only the sum of a part that a peer reads here.
  void add_exposed(CopyBatch& batch, const Part& part, int sum_slot) {
    add_part(batch, part, in_source(part), {.buffer = kNowhere}, sum_slot);
  }

  void set_slot(BufferId slot) { slot_ = slot; }
  [[nodiscard]] BufferIds ids() const {
    return {.num_tensors = static_cast<std::int64_t>(map_.num_tensors())};
  }

 private:
  /// One part's way out of its message; a direct one is in place and is summed alone.
  void add_unpack(StageProgram& program, const StageMessage& message, std::size_t i, int sum_slot);
  void add_part(CopyBatch& batch, const Part& part, const End& src, const End& dst, int sum_slot);
  /// The message of one part that lies densely in a fragment.
  ProgramMessage direct_message(const StageMessage& message, const End& end);
  /// The place of the next sum of a message's peer; `step` is the distance to the one after.
  std::int64_t take_sum(std::map<int, std::int64_t>& sums,
                        const StageMessage& message,
                        std::int64_t step);
  [[nodiscard]] ProgramMessage packed_message(const StageMessage& message) const {
    return {.peer = message.peer,
            .buffer = slot_,
            .offset_bytes = message.staging_offset_bytes,
            .size_bytes = message.size_bytes};
  }
  /// Where in the slot a message carries sums.
  [[nodiscard]] ProgramMessage sum_region(const StageMessage& message) const;
  [[nodiscard]] std::int64_t elem_bytes(const Part& part) const {
    return map_.tensor(part.tensor).dtype.size_bytes;
  }
  [[nodiscard]] std::int64_t size_bytes(const Part& part) const {
    return (part.end_elem - part.begin_elem) * elem_bytes(part);
  }
  [[nodiscard]] End in_source(const Part& part) {
    return {.buffer = BufferIds::source(part.tensor), .finder = &source_, .offset_bytes = 0};
  }
  [[nodiscard]] End in_target(const Part& part) {
    return {.buffer = ids().target(part.tensor), .finder = &target_, .offset_bytes = 0};
  }
  [[nodiscard]] End in_slot(const StageMessage& message, std::size_t part) const {
    return {.buffer = slot_,
            .finder = nullptr,
            .offset_bytes = message.staging_offset_bytes + message.part_offsets_bytes[part]};
  }

  const ShardMap& map_;
  FragmentFinder source_;
  FragmentFinder target_;
  BufferId slot_;
};

void ProgramBuilder::add_part(
    CopyBatch& batch, const Part& part, const End& src, const End& dst, int sum_slot) {
  const std::int64_t bytes = elem_bytes(part);
  const auto view_of = [&](const End& end, const Box& piece, const Shape& shape) {
    if (end.finder == nullptr) {
      return View{.offset_elems = 0, .strides = row_major_strides(shape)};
    }
    const Fragment& fragment = end.finder->find(part.tensor, part.box);
    return sub_view(fragment.box, fragment.view, piece);
  };
  for_each_piece(part, [&](const Box& piece, std::int64_t first_elem) {
    const Shape shape = piece.shape();
    const View src_view = view_of(src, piece, shape);
    const View dst_view = dst.buffer == kNowhere ? src_view : view_of(dst, piece, shape);
    const auto offset = [&](const End& end) {
      return end.finder == nullptr ? end.offset_bytes + first_elem * bytes : 0;
    };
    batch.copies.push_back({.src = src.buffer,
                            .dst = dst.buffer,
                            .elem_bytes = bytes,
                            .src_offset_bytes = offset(src),
                            .dst_offset_bytes = offset(dst),
                            .copy = collapse(shape, src_view, dst_view),
                            .sum_slot = sum_slot,
                            .first_elem = first_elem});
  });
}

ProgramMessage ProgramBuilder::direct_message(const StageMessage& message, const End& end) {
  const Part& part = message.parts.front();
  CopyBatch runs;
  add_part(runs, part, end, {.buffer = kNowhere}, -1);
  const std::int64_t begin = runs.copies.front().copy.src_offset_elems;
  std::int64_t at = begin;
  for (const CopyDescriptor& run : runs.copies) {
    DYNATRAIN_CHECK(run.copy.extents.rank() == 1 && run.copy.src_offset_elems == at &&
                        (run.copy.src_strides[0] == 1 || run.copy.extents[0] == 1),
                    "execution: a direct message of '" + map_.tensor(part.tensor).name +
                        "' is not contiguous in memory");
    at += run.copy.extents[0];
  }
  return {.peer = message.peer,
          .buffer = end.buffer,
          .offset_bytes = begin * elem_bytes(part),
          .size_bytes = message.size_bytes};
}

std::int64_t ProgramBuilder::take_sum(std::map<int, std::int64_t>& sums,
                                      const StageMessage& message,
                                      std::int64_t step) {
  const auto next = sums.find(message.peer);
  DYNATRAIN_CHECK(next != sums.end(),
                  "execution: parts come before the message that carries their sums");
  const std::int64_t offset = next->second;
  next->second += step;
  return offset;
}

ProgramMessage ProgramBuilder::sum_region(const StageMessage& message) const {
  return {.peer = message.peer,
          .buffer = slot_,
          .offset_bytes = message.staging_offset_bytes + message.sums_offset_bytes,
          .size_bytes = message.size_bytes - message.sums_offset_bytes};
}

void ProgramBuilder::add_sends(StageProgram& program,
                               const std::vector<StageMessage>& messages,
                               bool with_sums) {
  std::map<int, std::int64_t> sums;
  for (const StageMessage& message : messages) {
    program.sent_bytes += message.size_bytes;
    program.sends.push_back(message.direct
                                ? direct_message(message, in_source(message.parts.front()))
                                : packed_message(message));
    if (message.sums_offset_bytes >= 0) {
      sums[message.peer] = message.staging_offset_bytes + message.sums_offset_bytes;
      program.packed_sums.push_back(sum_region(message));
    }
    for (std::size_t i = 0; i < message.parts.size(); ++i) {
      const Part& part = message.parts[i];
      const int sum_slot =
          with_sums ? static_cast<int>(take_sum(sums, message, kSumBytes) / kSumBytes) : -1;
      if (!message.direct) {
        add_part(program.pack, part, in_source(part), in_slot(message, i), sum_slot);
      } else if (with_sums) {
        add_part(program.pack, part, in_source(part), {.buffer = kNowhere}, sum_slot);
      }
    }
  }
}

void ProgramBuilder::add_receives(StageProgram& program,
                                  const std::vector<StageMessage>& messages,
                                  bool with_sums) {
  std::map<int, std::int64_t> sums;  // by peer: index of the next sum in the joined regions
  std::int64_t num_sums = 0;
  for (const StageMessage& message : messages) {
    program.received_bytes += message.size_bytes;
    program.receives.push_back(message.direct
                                   ? direct_message(message, in_target(message.parts.front()))
                                   : packed_message(message));
    if (with_sums && message.sums_offset_bytes >= 0) {
      sums[message.peer] = num_sums;
      program.sent_sums.push_back(sum_region(message));
      num_sums += program.sent_sums.back().size_bytes / kSumBytes;
    }
    for (std::size_t i = 0; i < message.parts.size(); ++i) {
      int sum_slot = -1;
      if (with_sums) {
        sum_slot = static_cast<int>(program.checks.size());
        const std::int64_t sent_index = take_sum(sums, message, 1);
        program.checks.push_back(
            {.part = &message.parts[i], .peer = message.peer, .sent_index = sent_index});
      }
      add_unpack(program, message, i, sum_slot);
    }
  }
}

void ProgramBuilder::add_unpack(StageProgram& program,
                                const StageMessage& message,
                                std::size_t i,
                                int sum_slot) {
  const Part& part = message.parts[i];
  if (!message.direct) {
    add_part(program.unpack, part, in_slot(message, i), in_target(part), sum_slot);
  } else if (sum_slot >= 0) {
    add_part(program.unpack, part, in_target(part), {.buffer = kNowhere}, sum_slot);
  }
}

void ProgramBuilder::add_local(StageProgram& program, const Part& part) {
  program.local_bytes += size_bytes(part);
  add_part(program.local, part, in_source(part), in_target(part), -1);
}

void ProgramBuilder::add_pull(
    StageProgram& program, const Part& part, BufferId mapped, FragmentFinder& peer, int sum_slot) {
  program.received_bytes += size_bytes(part);
  add_part(program.unpack,
           part,
           {.buffer = mapped, .finder = &peer, .offset_bytes = 0},
           in_target(part),
           sum_slot);
}

/// Bytes from the buffer's base that the fragments of a rank reach.
std::int64_t reach_bytes(const std::vector<Fragment>& fragments, std::int64_t elem_bytes) {
  std::int64_t end = 0;
  for (const Fragment& fragment : fragments) {
    std::int64_t last = fragment.view.offset_elems;
    for (int d = 0; d < fragment.box.rank(); ++d) {
      last += (fragment.box.dim(d).size() - 1) * fragment.view.strides[d];
    }
    end = std::max(end, last + 1);
  }
  return checked_mul(end, elem_bytes);
}

/// Makes the program of a one-sided run, stage by stage.
class PullBuilder {
 public:
  PullBuilder(const Schedule& schedule,
              const ShardMap& source,
              const ShardMap& target,
              bool with_sums)
      : source_(source), with_sums_(with_sums), builder_(source, target, schedule.rank) {
    program_.stages.resize(schedule.stages.size());
  }

  void add_reads(std::size_t k, const StageMessage& message) {
    StageProgram& stage = program_.stages[k];
    FragmentFinder& peer = finders_.try_emplace(message.peer, source_, message.peer).first->second;
    for (const Part& part : message.parts) {
      int sum_slot = -1;
      if (with_sums_) {
        sum_slot = static_cast<int>(stage.checks.size());
        stage.checks.push_back(
            {.part = &part, .peer = message.peer, .sent_index = num_read_[message.peer]++});
      }
      builder_.add_pull(stage, part, mapped_id(message.peer, part.tensor, peer), peer, sum_slot);
    }
  }
  void add_exposed(const StageMessage& message) {
    if (!with_sums_) {
      return;
    }
    for (const Part& part : message.parts) {
      builder_.add_exposed(
          program_.exposed, part, static_cast<int>(program_.exposed_reader.size()));
      program_.exposed_reader.push_back(message.peer);
    }
  }
  void add_local(std::size_t k, const Part& part) { builder_.add_local(program_.stages[k], part); }
  [[nodiscard]] PullProgram take() { return std::move(program_); }

 private:
  /// The buffer of a peer's tensor, a new one where it is met first.
  BufferId mapped_id(int rank, TensorId tensor, FragmentFinder& peer) {
    const BufferId next(builder_.ids().first_mapped().value + std::ssize(program_.mapped));
    const auto [mapped, is_new] = ids_.try_emplace({rank, tensor}, next);
    if (is_new) {
      const std::int64_t elem_bytes = source_.tensor(tensor).dtype.size_bytes;
      program_.mapped.push_back({.peer = rank,
                                 .tensor = tensor,
                                 .id = next,
                                 .size_bytes = reach_bytes(peer.all(tensor), elem_bytes)});
    }
    return mapped->second;
  }

  const ShardMap& source_;
  bool with_sums_;
  ProgramBuilder builder_;
  PullProgram program_;
  std::map<int, FragmentFinder> finders_;
  std::map<std::pair<int, TensorId>, BufferId> ids_;
  std::map<int, std::int64_t> num_read_;  ///< parts, by owner
};

}  // namespace

std::vector<StageProgram> make_program(const Schedule& schedule,
                                       const ShardMap& source,
                                       const ShardMap& target,
                                       bool with_sums) {
  ProgramBuilder builder(source, target, schedule.rank);
  std::vector<StageProgram> program(schedule.stages.size());
  for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
    builder.set_slot(builder.ids().slot(k));
    builder.add_sends(program[k], schedule.stages[k].sends, with_sums);
    builder.add_receives(program[k], schedule.stages[k].receives, with_sums);
    for (const Part& part : schedule.stages[k].locals) {
      builder.add_local(program[k], part);
    }
  }
  return program;
}

PullProgram make_pull_program(const Schedule& schedule,
                              const ShardMap& source,
                              const ShardMap& target,
                              bool with_sums) {
  PullBuilder pulls(schedule, source, target, with_sums);
  for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
    for (const StageMessage& message : schedule.stages[k].receives) {
      pulls.add_reads(k, message);
    }
    for (const StageMessage& message : schedule.stages[k].sends) {
      pulls.add_exposed(message);
    }
    for (const Part& part : schedule.stages[k].locals) {
      pulls.add_local(k, part);
    }
  }
  return pulls.take();
}

}  // namespace dynatrain
