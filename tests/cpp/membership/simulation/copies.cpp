#include "membership/simulation/simulation.hpp"
#include <algorithm>
#include <iterator>
#include <set>

/// Snapshots and checkpoints, and what can be put together from them.
namespace dynatrain::membership::simulation {

/// Has a checkpoint be there when the last member has come to it.
void Simulation::save(const Process& process, std::int64_t epoch) {
  const std::int64_t version = process.data.version;
  const bool is_whole = std::ranges::all_of(oracle_.members_in(epoch), [&](MemberId id) {
    const Process& member = process_of(id);
    return member.is_alive && member.data.version == version && member.data.is_clean &&
           member.data.digest == process.data.digest;
  });
  if (is_whole && oracle_.world().epoch == epoch) {
    checkpoints_[version] = {process.data.digest, epoch};
    if (checkpoints_.size() > 2) {
      checkpoints_.erase(checkpoints_.begin());
    }
  }
}

/// Of those, the versions that a member of the present world may use.
std::vector<std::int64_t> Simulation::on_disk() const {
  std::vector<std::int64_t> versions;
  for (const auto& [version, checkpoint] : checkpoints_) {
    if (version <= oracle_.world().version || checkpoint.epoch == oracle_.world().epoch) {
      versions.push_back(version);
    }
  }
  return versions;
}

bool Simulation::is_orphaned(const std::vector<MemberId>& members) {
  return std::ranges::all_of(members, [&](MemberId id) { return oracle_.is_gone(id); });
}

/// Has all members know of a snapshot, when the last one of them has copied its state. One member
/// alone has nobody who keeps it.
void Simulation::tell_of_copies(const Process& process, std::int64_t epoch) {
  const std::vector<MemberId>& members = oracle_.members_in(epoch);
  const bool is_whole = std::ranges::all_of(members, [&](MemberId id) {
    const std::map<std::int64_t, Snapshot>& theirs = process_of(id).data.snapshots;
    const auto found = theirs.find(process.data.version);
    return process_of(id).is_alive && found != theirs.end() && found->second.epoch == epoch;
  });
  if (is_whole && members.size() > 1) {
    for (const MemberId id : members) {
      put_local(process_of(id), random_.between(1, 60), Copied{epoch});
    }
  }
}

bool Simulation::is_covered(const std::vector<MemberId>& members, std::int64_t version) {
  std::set<std::int64_t> epochs{oracle_.world().epoch};
  for (const MemberId id : members) {
    const Data& data = process_of(id).data;
    if (const auto found = data.snapshots.find(version); found != data.snapshots.end()) {
      epochs.insert(found->second.epoch);
    }
  }
  return std::ranges::any_of(epochs, [&](std::int64_t epoch) {
    return is_covered_in(oracle_.members_in(epoch), members, {epoch, version});
  });
}

/// Whether `holders` hold each shard of a world, which are as many as its `members`.
bool Simulation::is_covered_in(const std::vector<MemberId>& members,
                               const std::vector<MemberId>& holders,
                               std::pair<std::int64_t, std::int64_t> epoch_and_version) {
  const auto [epoch, version] = epoch_and_version;
  const auto is_there = [&](MemberId id) {
    return std::ranges::find(holders, id) != holders.end() && process_of(id).is_alive &&
           !oracle_.is_gone(id);
  };
  const auto has_live = [&](MemberId id) {
    const Data& data = process_of(id).data;
    return epoch == oracle_.world().epoch && is_there(id) && data.is_clean &&
           data.version == version;
  };
  const auto has_snapshot = [&](MemberId id) {
    const Data& data = process_of(id).data;
    const auto found = data.snapshots.find(version);
    return is_there(id) && found != data.snapshots.end() && found->second.epoch == epoch;
  };
  std::size_t num_covered = 0;
  for (std::size_t rank = 0; rank < members.size(); ++rank) {
    // A snapshot of a member keeps a copy of its left neighbour's shard, too.
    const MemberId own = members[rank];
    const MemberId right = members[(rank + 1) % members.size()];
    num_covered += has_live(own) || has_snapshot(own) || has_snapshot(right) ? 1U : 0U;
  }
  return scenario_.is_replicated ? num_covered > 0 : num_covered == members.size();
}

std::optional<std::uint64_t> Simulation::digest_of(const Description& description) {
  const std::int64_t version = description.target.version;
  const std::vector<MemberId> beside = beside_source(description);
  const bool is_alone =
      is_orphaned(description.source.members) &&
      std::ranges::none_of(beside, [&](MemberId id) { return copied(id, version).has_value(); });
  const std::vector<std::int64_t> usable = on_disk();
  const bool is_saved = checkpoints_.contains(version) &&
                        (is_alone || std::ranges::find(usable, version) != usable.end());
  if (is_alone) {
    return is_saved ? std::optional(checkpoints_.at(version).digest) : std::nullopt;
  }
  std::optional<std::uint64_t> digest;
  if (is_saved) {
    digest = checkpoints_.at(version).digest;
  }
  const auto add = [&](std::optional<std::uint64_t> held) {
    if (held && digest && *held != *digest) {
      throw Violation("two members hold different states under version " + std::to_string(version));
    }
    digest = held ? held : digest;
  };
  std::vector<MemberId> holders;
  for (std::size_t i = 0; i < description.source.members.size(); ++i) {
    holders.push_back(description.source.members[i]);
    if (description.holdings[i] == Holding::kLive) {
      add(process_of(holders.back()).data.digest);
    } else if (description.holdings[i] == Holding::kSnapshot) {
      add(copied(holders.back(), version));
    }
  }
  for (const MemberId id : beside) {
    holders.push_back(id);
    add(copied(id, version));
  }
  return is_saved || is_covered(holders, version) ? digest : std::nullopt;
}

/// What a member has of a snapshot.
std::optional<std::uint64_t> Simulation::copied(MemberId id, std::int64_t version) {
  const std::map<std::int64_t, Snapshot>& snapshots = process_of(id).data.snapshots;
  const auto found = snapshots.find(version);
  return found == snapshots.end() ? std::nullopt : std::optional(found->second.digest);
}

/// Who takes part in a recovery and was not in its source.
std::vector<MemberId> Simulation::beside_source(const Description& description) const {
  std::vector<MemberId> beside = description.former;
  std::ranges::copy_if(description.target.members, std::back_inserter(beside), [&](MemberId id) {
    const std::vector<MemberId>& members = description.source.members;
    return std::ranges::find(members, id) == members.end();
  });
  return beside;
}

void Simulation::find_versions(const Process& process) {
  Found found;
  for (const auto& [version, checkpoint] : checkpoints_) {
    found.versions.push_back(version);
  }
  for (const auto& [version, snapshot] : process.data.snapshots) {
    found.versions.push_back(version);
  }
  put_local(process, random_.between(1, 60), std::move(found));
}

}  // namespace dynatrain::membership::simulation
