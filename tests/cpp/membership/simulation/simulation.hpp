#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/worker.hpp"

#include "membership/simulation/event_queue.hpp"
#include "membership/simulation/oracle.hpp"
#include "membership/simulation/random.hpp"
#include "membership/simulation/scenario.hpp"
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain::membership::simulation {

/// A copy of a member's shard and of its left neighbour's, in the world in which it was made.
struct Snapshot {
  std::uint64_t digest = 0;
  std::int64_t epoch = 0;
};

/// A checkpoint on disk, and the world that has written it.
struct Checkpoint {
  std::uint64_t digest = 0;
  std::int64_t epoch = 0;
};

/// What a member holds of the job: a version, and a digest of all steps that led there.
struct Data {
  std::int64_t version = 0;
  std::uint64_t digest = 0;
  bool is_clean = false;
  std::map<std::int64_t, Snapshot> snapshots = {};  ///< by version
};

/// A step or a transfer that a process is in. Others meet it there.
struct Meeting {
  std::int64_t number = 0;  ///< epoch of a step, attempt of a transfer
  std::int64_t version = 0;
  std::int64_t token = 0;
  bool has_met = false;  ///< all were there: it ends on its own
};

struct Process {
  explicit Process(Worker worker) : machine(std::move(worker)) {}

  Worker machine;
  MemberId id;
  bool is_alive = true;
  std::int64_t paused_until_ms = 0;
  std::int64_t pause_felt_until_ms = 0;  ///< what it has put off comes by then
  bool is_beyond = false;                ///< on the other side of a partition
  bool has_policy = false;               ///< in its script
  std::size_t told_policy_to = 0;        ///< the last coordinator that knows of it
  Data data;
  std::optional<Data> target;  ///< what a transfer has brought
  std::optional<Meeting> step;
  std::optional<Meeting> transfer;
  std::int64_t drains = 0;        ///< the attempt whose transfer was given up, and still runs
  std::int64_t left_for = 0;      ///< epoch of the world that may need its copies
  std::int64_t last_install = 0;  ///< attempt by which its world stands
  bool fails_step = false;
  bool fails_prepare = false;
  bool fails_transfer = false;
  std::int64_t transfer_delay_ms = 0;
  std::int64_t prepare_delay_ms = 0;
  std::optional<EndReason> end;
};

struct Outcome {
  std::string violation;  ///< empty when all went well
  std::int64_t num_happenings = 0;
  std::size_t most_to_come = 0;  ///< at any one moment
  std::int64_t num_worlds = 0;
  std::int64_t num_halts = 0;
  std::int64_t num_undecided = 0;
  bool is_stuck_without_state = false;
  bool is_finished = false;
};

/// Runs a scenario: N processes, a coordinator with a disk, and a network between them. The real
/// machines, and around them nothing that is shared with them.
class Simulation {
 public:
  Simulation(Scenario scenario, bool is_verbose);
  [[nodiscard]] Outcome run();

 private:
  // simulation.cpp
  void happen(const Happening& happening);
  void happen_to_process(const Happening& happening, Process& process);
  void start_process();
  void feed(Process& process, const WorkerEvent& event);
  void carry_out(Process& process, const WorkerAction& action);
  void feed_coordinator(const CoordinatorEvent& event);
  void hear(const FromWorker& message);
  void start_coordinator();
  void put_local(const Process& process, std::int64_t delay_ms, WorkerEvent event);
  void end_process(Process& process);
  [[nodiscard]] Process& process_of(MemberId id) { return *processes_.at(id.value - 1); }
  [[nodiscard]] bool is_quiet() const { return now_ms_ >= scenario_.quiet_at_ms; }
  void note(const std::string& who, const std::string& lines) const;
  // scripts.cpp
  void tell_of_policy(Process& process);
  void consult(const Consult& consult);
  void answer(const Happening& happening);
  // network.cpp
  void transmit(const Process& process, What what, Payload payload);
  // incidents.cpp
  void begin_incident(const Incident& incident);
  void begin_for_process(const Incident& incident, Process& process);
  [[nodiscard]] Process* pick(std::uint64_t who);
  void heal();
  // data_plane.cpp
  void begin_step(Process& process, const Train& action);
  void retry_step(const Process& process);
  void end_step(Process& process);
  void stand_at_boundary(Process& process);
  [[nodiscard]] bool is_refused(const Description& description) const;
  void prepare(Process& process, const RunPrepare& action);
  void begin_transfer(Process& process, const RunSwitch& action);
  void retry_transfer(const Process& process);
  void end_transfer(Process& process);
  void stop(Process& process);
  void discard(Process& process, const Discard& action);
  void install(Process& process, const Install& action);
  [[nodiscard]] bool can_meet(const Process& process) const;
  [[nodiscard]] bool are_together(const std::vector<Process*>& all) const;
  [[nodiscard]] std::vector<Process*> participants(std::int64_t attempt);
  // copies.cpp
  void find_versions(const Process& process);
  void save(const Process& process, std::int64_t epoch);
  void tell_of_copies(const Process& process, std::int64_t epoch);
  [[nodiscard]] std::optional<std::uint64_t> copied(MemberId id, std::int64_t version);
  [[nodiscard]] std::vector<MemberId> beside_source(const Description& description) const;
  [[nodiscard]] std::vector<std::int64_t> on_disk() const;
  [[nodiscard]] bool is_orphaned(const std::vector<MemberId>& members);
  [[nodiscard]] std::optional<std::uint64_t> digest_of(const Description& description);
  [[nodiscard]] bool is_covered(const std::vector<MemberId>& members, std::int64_t version);
  [[nodiscard]] bool is_covered_in(const std::vector<MemberId>& members,
                                   const std::vector<MemberId>& holders,
                                   std::pair<std::int64_t, std::int64_t> epoch_and_version);
  // liveness.cpp
  [[nodiscard]] bool is_well();
  [[nodiscard]] bool is_finished_well();
  [[nodiscard]] bool is_state_gone();
  [[nodiscard]] bool is_stuck_rightly();
  [[nodiscard]] bool is_resting(const Process& process) const;
  [[nodiscard]] const LayoutChoice* wanted_layout(std::int64_t num_available) const;
  [[nodiscard]] bool is_wanted(const std::string& layout, std::int64_t num_available) const;
  void begin_quiet();
  [[nodiscard]] std::string describe_end();

  Scenario scenario_;
  bool is_verbose_ = false;
  Random random_;
  EventQueue queue_;
  std::int64_t now_ms_ = 0;
  Oracle oracle_;
  std::vector<Record> disk_;
  std::map<std::int64_t, Checkpoint> checkpoints_;  ///< by version
  std::optional<Coordinator> coordinator_;          ///< empty while it is down
  std::optional<std::int64_t> crash_behind_;        ///< so many more actions
  std::int64_t down_for_ms_ = 0;
  std::size_t num_coordinators_ = 0;
  std::vector<std::unique_ptr<Process>> processes_;
  std::int64_t next_token_ = 1;
  bool is_partitioned_ = false;
  std::optional<std::pair<std::int64_t, std::int64_t>> well_since_;  ///< epoch, version
  Outcome outcome_;
};

}  // namespace dynatrain::membership::simulation
