#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/worker.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>

namespace dynatrain::membership::simulation {

/// An invariant that was broken.
class Violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Watches what is written to disk, what the coordinator tells, and what members do. It knows the
/// protocol's promises and none of its states. docs/design/membership.md, "Invariants".
class Oracle {
 public:
  void on_persist(const Record& record);
  void on_publish(const Description& description);
  void on_coordinator_sends(const Send& send);
  void on_member_tells(MemberId id, const FromWorker& message);
  /// `version` is what the member's memory holds.
  void on_train(MemberId id, const Train& action, std::int64_t version);
  void on_discard(MemberId id, const Discard& action);
  void on_install(MemberId id, const Install& action);
  void on_retire(MemberId id, const Retire& action);
  /// All members of a world have begun a step, so it will be completed.
  void on_step_passes(std::int64_t epoch, std::int64_t version) const;

  [[nodiscard]] const World& world() const { return world_; }
  [[nodiscard]] const std::map<std::int64_t, Description>& published() const { return published_; }
  /// Those of a world that was committed.
  [[nodiscard]] const std::vector<MemberId>& members_in(std::int64_t epoch) const {
    return committed_by_epoch_.at(epoch).world.members;
  }
  [[nodiscard]] bool is_gone(MemberId id) const {
    return lost_.contains(id) || released_.contains(id);
  }
  [[nodiscard]] bool is_leaving(MemberId id) const { return leaving_.contains(id); }
  [[nodiscard]] bool has_joined(MemberId id) const { return joined_.contains(id); }
  [[nodiscard]] const std::string& wish() const { return wish_; }
  [[nodiscard]] bool is_halted() const { return halted_epoch_ == world_.epoch && world_.epoch > 0; }
  [[nodiscard]] bool is_open(std::int64_t attempt) const {
    return attempt == last_begun_ && !aborted_.contains(attempt) &&
           !epoch_of_committed_.contains(attempt);
  }
  [[nodiscard]] bool is_finished() const { return is_finished_; }
  /// Who takes part in an attempt: its source but for those that were lost, and its target.
  [[nodiscard]] std::set<MemberId> participants(std::int64_t attempt) const;

 private:
  void on_commit(const AttemptCommitted& record);
  void check_promises(const Go& go) const;
  void check_promise(MemberId id, const Promise& promise);
  void check_holdings(const Description& description) const;
  void check_decision(const Decision& decision);

  std::map<std::int64_t, Description> published_;
  std::map<std::int64_t, AttemptCommitted> committed_by_epoch_;
  std::map<std::int64_t, std::int64_t> epoch_of_committed_;  ///< by attempt
  World world_;
  std::set<MemberId> joined_;
  std::set<MemberId> leaving_;
  std::set<MemberId> lost_;
  std::set<MemberId> released_;
  std::string wish_;
  std::int64_t halted_epoch_ = 0;
  std::int64_t last_begun_ = 0;
  bool is_finished_ = false;
  std::set<std::int64_t> aborted_;  ///< on disk, told, or acted on by a member
  std::map<std::int64_t, std::set<MemberId>> voted_yes_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::set<MemberId>> promised_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> proposed_step_;
  std::map<std::int64_t, std::int64_t> step_to_go_;
  struct Bond {
    std::int64_t attempt = 0;
    std::int64_t step = 0;
  };
  std::map<MemberId, Bond> bonds_;                           ///< promises that bind now
  std::map<MemberId, std::int64_t> num_begun_;               ///< steps, counted from version 0
  std::map<std::int64_t, std::set<std::int64_t>> reported_;  ///< versions by epoch
  std::map<MemberId, Report> reports_;                       ///< the last one of each
  std::int64_t newest_installed_epoch_ = 0;
};

}  // namespace dynatrain::membership::simulation
