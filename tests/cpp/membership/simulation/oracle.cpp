#include "membership/simulation/oracle.hpp"

#include "membership/overloaded.hpp"
#include <algorithm>

namespace dynatrain::membership::simulation {
namespace {

void expect(bool is_kept, const std::string& what) {
  if (!is_kept) {
    throw Violation(what);
  }
}

std::string named(MemberId id) {
  return "member " + std::to_string(id.value);
}

std::string numbered(std::int64_t attempt) {
  return "attempt " + std::to_string(attempt);
}

bool holds(const std::vector<MemberId>& members, MemberId id) {
  return std::ranges::find(members, id) != members.end();
}

}  // namespace

std::set<MemberId> Oracle::participants(std::int64_t attempt) const {
  const Description& description = published_.at(attempt);
  std::set<MemberId> all(description.target.members.begin(), description.target.members.end());
  for (std::size_t i = 0; i < description.source.members.size(); ++i) {
    if (description.holdings.empty() || description.holdings[i] != Holding::kAbsent) {
      all.insert(description.source.members[i]);
    }
  }
  all.insert(description.former.begin(), description.former.end());
  return all;
}

void Oracle::on_commit(const AttemptCommitted& record) {
  const std::int64_t attempt = record.attempt;
  const World& world = record.world;
  expect(committed_by_epoch_.emplace(world.epoch, record).second,
         "epoch " + std::to_string(world.epoch) + " was committed twice");
  expect(!aborted_.contains(attempt), numbered(attempt) + " was committed behind an abort");
  expect(published_.contains(attempt), numbered(attempt) + " was committed without a description");
  const Description& description = published_.at(attempt);
  expect(world.members == description.target.members && world.layout == description.target.layout,
         numbered(attempt) + " was committed to another world than it described");
  expect(description.source.epoch + 1 == world.epoch && world_.epoch + 1 == world.epoch,
         numbered(attempt) + " does not follow the present world");
  for (const MemberId id : world.members) {
    expect(joined_.contains(id) && !is_gone(id),
           named(id) + " is in a committed world, and was lost or released before");
  }
  for (const MemberId id : participants(attempt)) {
    expect(voted_yes_[attempt].contains(id),
           numbered(attempt) + " was committed without the vote of " + named(id));
  }
  expect(step_to_go_.contains(attempt) && step_to_go_.at(attempt) == world.version,
         numbered(attempt) + " was committed at another step than all were told");
  if (description.kind == ChangeKind::kRecovery) {
    expect(reported_[description.source.epoch].contains(world.version),
           numbered(attempt) + " recovers a version that nobody has reported");
  }
  epoch_of_committed_[attempt] = world.epoch;
  world_ = world;
}

void Oracle::on_persist(const Record& record) {
  std::visit(Overloaded{
                 [&](const MemberJoined& one) {
                   expect(!is_gone(one.id), named(one.id) + " came back");
                   joined_.insert(one.id);
                 },
                 [&](const MemberLeaves& one) { leaving_.insert(one.id); },
                 [&](const MemberReleased& one) { released_.insert(one.id); },
                 [&](const MemberLost& one) { lost_.insert(one.id); },
                 [&](const LayoutWished& one) { wish_ = one.layout; },
                 [&](const AttemptBegun& one) {
                   expect(one.attempt > last_begun_, numbered(one.attempt) + " was used before");
                   last_begun_ = one.attempt;
                 },
                 [&](const AttemptAborted& one) {
                   expect(!epoch_of_committed_.contains(one.attempt),
                          numbered(one.attempt) + " was aborted behind its commit");
                   aborted_.insert(one.attempt);
                 },
                 [&](const AttemptCommitted& one) { on_commit(one); },
                 [&](const WorldHalted& one) { halted_epoch_ = one.epoch; },
                 [&](const JobFinished&) { is_finished_ = true; },
             },
             record);
}

void Oracle::on_publish(const Description& description) {
  expect(description.attempt == last_begun_, "a description without an attempt");
  expect(published_.emplace(description.attempt, description).second,
         numbered(description.attempt) + " was published twice");
  if (description.kind == ChangeKind::kRecovery) {
    check_holdings(description);
  }
}

void Oracle::check_holdings(const Description& description) const {
  const std::int64_t version = description.target.version;
  const auto versions = reported_.find(description.source.epoch);
  expect(versions != reported_.end() && versions->second.contains(version),
         numbered(description.attempt) + " tries a version that nobody has reported whole");
  for (std::size_t i = 0; i < description.source.members.size(); ++i) {
    const Holding holding = description.holdings.at(i);
    if (holding == Holding::kAbsent || holding == Holding::kNothing) {
      continue;
    }
    const MemberId id = description.source.members[i];
    const auto found = reports_.find(id);
    const bool has_told =
        found != reports_.end() && found->second.epoch == description.source.epoch;
    const bool is_true =
        has_told &&
        (holding == Holding::kLive ? found->second.is_clean && found->second.version == version
                                   : std::ranges::find(found->second.snapshot_versions, version) !=
                                         found->second.snapshot_versions.end());
    expect(is_true,
           numbered(description.attempt) + " builds on version " + std::to_string(version) +
               " of " + named(id) + ", which has not reported it whole");
  }
}

void Oracle::check_promise(MemberId id, const Promise& promise) {
  const auto key = std::pair{promise.attempt, promise.proposal};
  const std::int64_t step = proposed_step_.at(key);
  expect(num_begun_[id] <= step,
         named(id) + " promises not to begin step " + std::to_string(step) + ", and has");
  promised_[key].insert(id);
  bonds_[id] = {promise.attempt, step};
}

void Oracle::check_promises(const Go& go) const {
  const Description& description = published_.at(go.attempt);
  if (description.kind == ChangeKind::kRecovery) {
    expect(go.step == description.target.version, "a recovery goes to another version");
    return;
  }
  for (const MemberId id : description.source.members) {
    const auto found = promised_.find({go.attempt, go.proposal});
    expect(found != promised_.end() && found->second.contains(id),
           numbered(go.attempt) + " goes on without the promise of " + named(id));
    expect(proposed_step_.at({go.attempt, go.proposal}) == go.step,
           numbered(go.attempt) + " goes to another step than was proposed");
  }
}

void Oracle::check_decision(const Decision& decision) {
  if (decision.is_commit) {
    expect(epoch_of_committed_.contains(decision.attempt),
           "the commit of " + numbered(decision.attempt) + " was told, and is not on disk");
    return;
  }
  expect(!epoch_of_committed_.contains(decision.attempt),
         numbered(decision.attempt) + " was committed, and an abort was told");
  aborted_.insert(decision.attempt);
}

void Oracle::on_coordinator_sends(const Send& send) {
  const bool is_farewell = std::holds_alternative<Lost>(send.message) ||
                           std::holds_alternative<Released>(send.message) ||
                           std::holds_alternative<Refused>(send.message);
  expect(is_farewell || !is_gone(send.to), named(send.to) + " is gone, and was asked something");
  std::visit(
      Overloaded{
          [&](const Welcome&) {
            expect(joined_.contains(send.to), named(send.to) + " is not on disk, yet welcome");
          },
          [&](const Prepare& one) {
            expect(one.attempt == last_begun_ && published_.contains(one.attempt),
                   numbered(one.attempt) + " was not begun on disk, or not published");
          },
          [&](const Propose& one) {
            proposed_step_.emplace(std::pair{one.attempt, one.proposal}, one.step);
          },
          [&](const Go& one) {
            check_promises(one);
            expect(step_to_go_.emplace(one.attempt, one.step).first->second == one.step,
                   numbered(one.attempt) + " goes to two steps");
          },
          [&](const Decision& one) { check_decision(one); },
          [&](const Halt& one) {
            expect(one.epoch == halted_epoch_, "a halt was told that is not on disk");
          },
          [&](const Search&) {
            expect(std::ranges::all_of(world_.members, [&](MemberId id) { return is_gone(id); }),
                   "checkpoints are looked for while a member of the world lives");
          },
          [&](const Released&) {
            expect(released_.contains(send.to), named(send.to) + " was released off disk");
          },
          [&](const Lost&) {
            expect(lost_.contains(send.to), named(send.to) + " was told lost off disk");
          },
          [](const auto&) {},
      },
      send.message);
}

void Oracle::on_member_tells(MemberId id, const FromWorker& message) {
  if (const auto* promise = std::get_if<Promise>(&message); promise != nullptr && promise->is_yes) {
    check_promise(id, *promise);
  } else if (const auto* vote = std::get_if<Vote>(&message); vote != nullptr && vote->is_yes) {
    voted_yes_[vote->attempt].insert(id);
  } else if (const auto* report = std::get_if<Report>(&message)) {
    reports_[id] = *report;
    auto& versions = reported_[report->epoch];
    versions.insert(report->snapshot_versions.begin(), report->snapshot_versions.end());
    if (report->is_clean) {
      versions.insert(report->version);
    }
  }
}

void Oracle::on_train(MemberId id, const Train& action, std::int64_t version) {
  const auto found = committed_by_epoch_.find(action.epoch);
  expect(found != committed_by_epoch_.end(),
         named(id) + " trains in a world that is not committed");
  expect(holds(found->second.world.members, id), named(id) + " trains in a world of others");
  expect(action.version == version,
         named(id) + " trains from version " + std::to_string(action.version) + ", and holds " +
             std::to_string(version));
  const auto bond = bonds_.find(id);
  expect(bond == bonds_.end() || action.version < bond->second.step,
         named(id) + " passes step " + std::to_string(action.version) +
             " that it has promised to stop at");
  num_begun_[id] = action.version + 1;
}

void Oracle::on_discard(MemberId id, const Discard& action) {
  expect(!epoch_of_committed_.contains(action.attempt),
         named(id) + " lets go of " + numbered(action.attempt) + ", which was committed");
  aborted_.insert(action.attempt);
  if (bonds_.contains(id) && bonds_.at(id).attempt <= action.attempt) {
    bonds_.erase(id);
  }
}

void Oracle::on_install(MemberId id, const Install& action) {
  const auto found = epoch_of_committed_.find(action.attempt);
  expect(found != epoch_of_committed_.end(),
         named(id) + " installs " + numbered(action.attempt) + ", which is not committed");
  const World& world = committed_by_epoch_.at(found->second).world;
  expect(world.epoch == action.epoch && world.version == action.version,
         named(id) + " installs another world than the committed one");
  expect(holds(world.members, id), named(id) + " installs a world of others");
  newest_installed_epoch_ = std::max(newest_installed_epoch_, action.epoch);
  num_begun_[id] = action.version;
  bonds_.erase(id);
}

void Oracle::on_retire(MemberId id, const Retire& action) {
  expect(epoch_of_committed_.contains(action.attempt),
         named(id) + " retires by " + numbered(action.attempt) + ", which is not committed");
  bonds_.erase(id);
}

void Oracle::on_step_passes(std::int64_t epoch, std::int64_t version) const {
  expect(newest_installed_epoch_ <= epoch,
         "step " + std::to_string(version) + " of epoch " + std::to_string(epoch) +
             " is trained while epoch " + std::to_string(newest_installed_epoch_) + " stands");
}

}  // namespace dynatrain::membership::simulation
