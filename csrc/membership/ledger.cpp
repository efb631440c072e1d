#include "dynatrain/membership/ledger.hpp"

#include "dynatrain/base/error.hpp"

#include <set>

namespace dynatrain::membership {
namespace {

[[noreturn]] void refuse(const std::string& why) {
  throw LayoutError(
      "membership: a record cannot follow those before it\n  " + why +
      "\n  the record was not applied, the state is as it was before it\n  a ledger has "
      "one coordinator at a time: begin from one that no other has written to");
}

DurableMember& present_member(DurableState& state, MemberId id) {
  const auto found = state.members.find(id);
  if (found == state.members.end()) {
    refuse("expected a member that has joined, got " + std::to_string(id.value));
  }
  if (found->second.standing == Standing::kLost || found->second.standing == Standing::kReleased) {
    refuse("expected a member that is there, got " + std::to_string(id.value) +
           ", which is lost or released");
  }
  return found->second;
}

void check_open(const DurableState& state, std::int64_t attempt) {
  if (!state.is_attempt_open || attempt != state.last_attempt) {
    refuse("attempt " + std::to_string(attempt) + " is not open, the last one is " +
           std::to_string(state.last_attempt));
  }
}

void apply_one(DurableState& state, const MemberJoined& record) {
  if (record.id.value == 0 || state.members.contains(record.id)) {
    refuse("expected a new member, got " + std::to_string(record.id.value) +
           (record.id.value == 0 ? ", the id of nobody" : ", which has joined before"));
  }
  state.members.emplace(
      record.id,
      DurableMember{
          record.host, {}, Standing::kActive, state.num_joined, record.settings, record.machine});
  ++state.num_joined;
}

void apply_one(DurableState& state, const MemberLeaves& record) {
  present_member(state, record.id).standing = Standing::kLeaving;
}

void apply_one(DurableState& state, const MemberReleased& record) {
  present_member(state, record.id).standing = Standing::kReleased;
}

void apply_one(DurableState& state, const MemberLost& record) {
  DurableMember& member = present_member(state, record.id);
  member.standing = Standing::kLost;
  member.why = record.why;
}

void apply_one(DurableState& state, const LayoutWished& record) {
  state.wish = record.layout;
}

void apply_one(DurableState& state, const AttemptBegun& record) {
  if (state.is_attempt_open || record.attempt <= state.last_attempt) {
    refuse("attempt " + std::to_string(record.attempt) + " cannot begin behind attempt " +
           std::to_string(state.last_attempt));
  }
  state.last_attempt = record.attempt;
  state.is_attempt_open = true;
}

void apply_one(DurableState& state, const AttemptAborted& record) {
  check_open(state, record.attempt);
  state.is_attempt_open = false;
}

void apply_one(DurableState& state, const AttemptCommitted& record) {
  check_open(state, record.attempt);
  if (record.world.epoch != state.world.epoch + 1) {
    refuse("epoch " + std::to_string(record.world.epoch) + " is not the next one behind " +
           std::to_string(state.world.epoch));
  }
  const std::set<MemberId> distinct(record.world.members.begin(), record.world.members.end());
  if (distinct.empty() || distinct.size() != record.world.members.size()) {
    refuse("expected a world of members, each once, got " +
           std::to_string(record.world.members.size()) + " of whom " +
           std::to_string(distinct.size()) + " differ");
  }
  for (const MemberId id : record.world.members) {
    (void)present_member(state, id);
  }
  state.is_attempt_open = false;
  state.committed_attempts.insert(record.attempt);
  state.world = record.world;
  state.is_halted = false;
  state.halted_why.clear();
}

void apply_one(DurableState& state, const WorldHalted& record) {
  if (record.epoch != state.world.epoch || record.epoch == 0) {
    refuse("epoch " + std::to_string(record.epoch) + " is not the present one, " +
           std::to_string(state.world.epoch));
  }
  state.is_halted = true;
  state.halted_why = record.why;
}

void apply_one(DurableState& state, const JobFinished& record) {
  if (record.epoch != state.world.epoch) {
    refuse("epoch " + std::to_string(record.epoch) + " is not the present one, " +
           std::to_string(state.world.epoch));
  }
  state.is_finished = true;
}

}  // namespace

void add_record(DurableState& state, const Record& record) {
  std::visit([&state](const auto& one) { apply_one(state, one); }, record);
}

DurableState replay_ledger(std::span<const Record> records) {
  DurableState state;
  std::size_t number = 0;
  for (const Record& record : records) {
    try {
      add_record(state, record);
    } catch (const LayoutError& error) {
      throw LayoutError("membership: record " + std::to_string(number) +
                        " of the ledger is refused\n  " + error.what());
    }
    ++number;
  }
  return state;
}

}  // namespace dynatrain::membership
