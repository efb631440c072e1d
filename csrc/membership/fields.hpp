#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/worker.hpp"

#include <cstddef>
#include <string_view>
#include <tuple>

/// What each message, event, action and record is called in text, and its fields in their order.
namespace dynatrain::membership {

/// Of what a process tells its own machine, which cuts it to what may travel: entries, or bytes.
inline constexpr std::size_t kMaxOwn = 1U << 16U;

template <class Message, class Value>
struct Field {
  std::string_view name;
  Value Message::* member;
  std::size_t limit = 0;  ///< bytes of a text, entries of a list
};

template <class Message, class Value>
constexpr Field<Message, Value> field(std::string_view name,
                                      Value Message::* member,
                                      std::size_t limit = 0) {
  return {name, member, limit};
}

/// A type in text; one without a name is a part of others.
template <class... Fields>
struct Form {
  std::string_view name;
  std::tuple<Fields...> fields;
};

template <class... Fields>
constexpr Form<Fields...> named(std::string_view name, Fields... fields) {
  return {name, {fields...}};
}

template <class Message>
struct Of {};

// ---- values in others ----

constexpr auto form(Of<World> /*type*/) {
  return named("",
               field("epoch", &World::epoch),
               field("layout", &World::layout, kMaxLayoutBytes),
               field("members", &World::members, kMaxWorldMembers),
               field("version", &World::version));
}
constexpr auto form(Of<Description> /*type*/) {
  return named("",
               field("attempt", &Description::attempt),
               field("kind", &Description::kind),
               field("source", &Description::source),
               field("target", &Description::target),
               field("holdings", &Description::holdings, 2 * kMaxWorldMembers),
               field("former", &Description::former, kMaxWorldMembers),
               field("cold", &Description::cold_because, kMaxWhyBytes));
}

// ---- from a member ----

constexpr auto form(Of<Join> /*type*/) {
  return named("join",
               field("id", &Join::id),
               field("host", &Join::host, kMaxHostBytes),
               field("settings", &Join::settings, kMaxSettingsBytes),
               field("machine", &Join::machine, kMaxHostBytes));
}
constexpr auto form(Of<Heartbeat> /*type*/) {
  return named("heartbeat",
               field("id", &Heartbeat::id),
               field("epoch", &Heartbeat::epoch),
               field("version", &Heartbeat::version),
               field("attempt", &Heartbeat::attempt),
               field("stage", &Heartbeat::stage),
               field("proposal", &Heartbeat::proposal),
               field("closed", &Heartbeat::closed_attempt),
               field("activity", &Heartbeat::activity),
               field("leaving", &Heartbeat::is_leaving),
               field("copies", &Heartbeat::copies),
               field("copied", &Heartbeat::is_copied));
}
constexpr auto form(Of<Leave> /*type*/) {
  return named("leave", field("id", &Leave::id), field("grace_ms", &Leave::grace_ms));
}
constexpr auto form(Of<Prepared> /*type*/) {
  return named("prepared",
               field("id", &Prepared::id),
               field("attempt", &Prepared::attempt),
               field("version", &Prepared::version));
}
constexpr auto form(Of<PrepareFailed> /*type*/) {
  return named("prepare-failed",
               field("id", &PrepareFailed::id),
               field("attempt", &PrepareFailed::attempt),
               field("why", &PrepareFailed::why, kMaxWhyBytes),
               field("uncovered", &PrepareFailed::is_uncovered),
               field("refusal", &PrepareFailed::is_refusal));
}
constexpr auto form(Of<Promise> /*type*/) {
  return named("promise",
               field("id", &Promise::id),
               field("attempt", &Promise::attempt),
               field("proposal", &Promise::proposal),
               field("yes", &Promise::is_yes),
               field("version", &Promise::version));
}
constexpr auto form(Of<Vote> /*type*/) {
  return named("vote",
               field("id", &Vote::id),
               field("attempt", &Vote::attempt),
               field("yes", &Vote::is_yes),
               field("why", &Vote::why, kMaxWhyBytes),
               field("refusal", &Vote::is_refusal));
}
constexpr auto form(Of<Installed> /*type*/) {
  return named("installed",
               field("id", &Installed::id),
               field("epoch", &Installed::epoch),
               field("version", &Installed::version));
}
constexpr auto form(Of<StepFailed> /*type*/) {
  return named("step-failed",
               field("id", &StepFailed::id),
               field("epoch", &StepFailed::epoch),
               field("suspects", &StepFailed::suspects, kMaxSuspects));
}
constexpr auto form(Of<Report> /*type*/) {
  return named("report",
               field("id", &Report::id),
               field("epoch", &Report::epoch),
               field("version", &Report::version),
               field("clean", &Report::is_clean),
               field("snapshots", &Report::snapshot_versions, kMaxSnapshots));
}
constexpr auto form(Of<Gone> /*type*/) {
  return named("gone", field("id", &Gone::id), field("finished", &Gone::is_finished));
}

// ---- from the coordinator ----

constexpr auto form(Of<Welcome> /*type*/) {
  return named("welcome");
}
constexpr auto form(Of<Refused> /*type*/) {
  return named(
      "refused", field("why", &Refused::why, kMaxWhyBytes), field("over", &Refused::is_over));
}
constexpr auto form(Of<Heard> /*type*/) {
  return named("heard");
}
constexpr auto form(Of<Prepare> /*type*/) {
  return named("prepare",
               field("attempt", &Prepare::attempt),
               field("kind", &Prepare::kind),
               field("source_epoch", &Prepare::source_epoch),
               field("source", &Prepare::is_source),
               field("target_epoch", &Prepare::target_epoch),
               field("target_rank", &Prepare::target_rank));
}
constexpr auto form(Of<Propose> /*type*/) {
  return named("propose",
               field("attempt", &Propose::attempt),
               field("proposal", &Propose::proposal),
               field("step", &Propose::step));
}
constexpr auto form(Of<Go> /*type*/) {
  return named("go",
               field("attempt", &Go::attempt),
               field("proposal", &Go::proposal),
               field("step", &Go::step));
}
constexpr auto form(Of<Decision> /*type*/) {
  return named("decision",
               field("attempt", &Decision::attempt),
               field("commit", &Decision::is_commit),
               field("why", &Decision::why, kMaxWhyBytes));
}
constexpr auto form(Of<Halt> /*type*/) {
  return named("halt", field("epoch", &Halt::epoch), field("why", &Halt::why, kMaxWhyBytes));
}
constexpr auto form(Of<Holds> /*type*/) {
  return named("holds", field("why", &Holds::why, kMaxWhyBytes), field("gone", &Holds::is_gone));
}
constexpr auto form(Of<Search> /*type*/) {
  return named(
      "search", field("epoch", &Search::epoch), field("copies_since", &Search::copies_since));
}
constexpr auto form(Of<Forget> /*type*/) {
  return named("forget", field("epoch", &Forget::epoch));
}
constexpr auto form(Of<Released> /*type*/) {
  return named("released");
}
constexpr auto form(Of<Lost> /*type*/) {
  return named("lost", field("why", &Lost::why, kMaxWhyBytes));
}

// ---- other events and actions of the coordinator ----

constexpr auto form(Of<Resize> /*type*/) {
  return named("resize", field("layout", &Resize::layout, kMaxLayoutBytes));
}
constexpr auto form(Of<Drain> /*type*/) {
  return named("drain", field("id", &Drain::id));
}
constexpr auto form(Of<ConnectionClosed> /*type*/) {
  return named("connection-closed", field("id", &ConnectionClosed::id));
}
constexpr auto form(Of<Advises> /*type*/) {
  return named("advises", field("id", &Advises::id));
}
constexpr auto form(Of<Advice> /*type*/) {
  return named("advice",
               field("number", &Advice::number),
               field("layout", &Advice::layout, kMaxLayoutBytes),
               field("world_size", &Advice::world_size),
               field("why", &Advice::why, kMaxWhyBytes));
}
constexpr auto form(Of<Abdicate> /*type*/) {
  return named("abdicate", field("why", &Abdicate::why, kMaxWhyBytes));
}
constexpr auto form(Of<Consult> /*type*/) {
  return named("consult", field("number", &Consult::number), field("to", &Consult::to));
}
constexpr auto form(Of<Tick> /*type*/) {
  return named("tick");
}
constexpr auto form(Of<Persist> /*type*/) {
  return named("persist", field("record", &Persist::record));
}
constexpr auto form(Of<Publish> /*type*/) {
  return named("publish", field("description", &Publish::description));
}
constexpr auto form(Of<Send> /*type*/) {
  return named("send", field("to", &Send::to), field("message", &Send::message));
}

// ---- records ----

constexpr auto form(Of<MemberJoined> /*type*/) {
  return named("member-joined",
               field("id", &MemberJoined::id),
               field("host", &MemberJoined::host, kMaxHostBytes),
               field("settings", &MemberJoined::settings, kMaxSettingsBytes),
               field("machine", &MemberJoined::machine, kMaxHostBytes));
}
constexpr auto form(Of<MemberLeaves> /*type*/) {
  return named("member-leaves", field("id", &MemberLeaves::id));
}
constexpr auto form(Of<MemberReleased> /*type*/) {
  return named("member-released", field("id", &MemberReleased::id));
}
constexpr auto form(Of<MemberLost> /*type*/) {
  return named(
      "member-lost", field("id", &MemberLost::id), field("why", &MemberLost::why, kMaxWhyBytes));
}
constexpr auto form(Of<LayoutWished> /*type*/) {
  return named("layout-wished", field("layout", &LayoutWished::layout, kMaxLayoutBytes));
}
constexpr auto form(Of<AttemptBegun> /*type*/) {
  return named("attempt-begun", field("attempt", &AttemptBegun::attempt));
}
constexpr auto form(Of<AttemptAborted> /*type*/) {
  return named("attempt-aborted",
               field("attempt", &AttemptAborted::attempt),
               field("why", &AttemptAborted::why, kMaxWhyBytes));
}
constexpr auto form(Of<AttemptCommitted> /*type*/) {
  return named("attempt-committed",
               field("attempt", &AttemptCommitted::attempt),
               field("world", &AttemptCommitted::world));
}
constexpr auto form(Of<WorldHalted> /*type*/) {
  return named("world-halted",
               field("epoch", &WorldHalted::epoch),
               field("why", &WorldHalted::why, kMaxWhyBytes));
}
constexpr auto form(Of<JobFinished> /*type*/) {
  return named("job-finished", field("epoch", &JobFinished::epoch));
}

// ---- other events and actions of a member ----

constexpr auto form(Of<AtBoundary> /*type*/) {
  return named("at-boundary", field("version", &AtBoundary::version));
}
constexpr auto form(Of<StepBroke> /*type*/) {
  return named("step-broke", field("suspects", &StepBroke::suspects, kMaxOwn));
}
constexpr auto form(Of<PrepareDone> /*type*/) {
  return named("prepare-done", field("attempt", &PrepareDone::attempt));
}
constexpr auto form(Of<PrepareBroke> /*type*/) {
  return named("prepare-broke",
               field("attempt", &PrepareBroke::attempt),
               field("why", &PrepareBroke::why, kMaxOwn),
               field("uncovered", &PrepareBroke::is_uncovered),
               field("refusal", &PrepareBroke::is_refusal));
}
constexpr auto form(Of<SwitchMoved> /*type*/) {
  return named("switch-moved", field("attempt", &SwitchMoved::attempt));
}
constexpr auto form(Of<SwitchBroke> /*type*/) {
  return named("switch-broke",
               field("attempt", &SwitchBroke::attempt),
               field("why", &SwitchBroke::why, kMaxOwn),
               field("refusal", &SwitchBroke::is_refusal));
}
constexpr auto form(Of<Stopped> /*type*/) {
  return named("stopped",
               field("version", &Stopped::version),
               field("clean", &Stopped::is_clean),
               field("snapshots", &Stopped::snapshot_versions, kMaxOwn));
}
constexpr auto form(Of<Found> /*type*/) {
  return named("found", field("versions", &Found::versions, kMaxOwn));
}
constexpr auto form(Of<Copied> /*type*/) {
  return named("copied", field("epoch", &Copied::epoch), field("on_disk", &Copied::is_on_disk));
}
constexpr auto form(Of<LeaveWanted> /*type*/) {
  return named("leave-wanted", field("grace_ms", &LeaveWanted::grace_ms));
}
constexpr auto form(Of<ScriptFinished> /*type*/) {
  return named("script-finished");
}
constexpr auto form(Of<Tell> /*type*/) {
  return named("tell", field("message", &Tell::message));
}
constexpr auto form(Of<Train> /*type*/) {
  return named("train", field("epoch", &Train::epoch), field("version", &Train::version));
}
constexpr auto form(Of<RunPrepare> /*type*/) {
  return named("run-prepare", field("attempt", &RunPrepare::attempt));
}
constexpr auto form(Of<RunSwitch> /*type*/) {
  return named(
      "run-switch", field("attempt", &RunSwitch::attempt), field("version", &RunSwitch::version));
}
constexpr auto form(Of<Discard> /*type*/) {
  return named("discard", field("attempt", &Discard::attempt));
}
constexpr auto form(Of<Install> /*type*/) {
  return named("install",
               field("attempt", &Install::attempt),
               field("epoch", &Install::epoch),
               field("version", &Install::version));
}
constexpr auto form(Of<Retire> /*type*/) {
  return named("retire", field("attempt", &Retire::attempt), field("version", &Retire::version));
}
constexpr auto form(Of<ForgetCopies> /*type*/) {
  return named("forget-copies");
}
constexpr auto form(Of<StopStep> /*type*/) {
  return named(
      "stop-step", field("epoch", &StopStep::epoch), field("why", &StopStep::why, kMaxWhyBytes));
}
constexpr auto form(Of<StandStill> /*type*/) {
  return named("stand-still",
               field("why", &StandStill::why, kMaxWhyBytes),
               field("gone", &StandStill::is_gone));
}
constexpr auto form(Of<FindVersions> /*type*/) {
  return named("find-versions");
}
constexpr auto form(Of<End> /*type*/) {
  return named("end", field("reason", &End::reason), field("why", &End::why, kMaxWhyBytes));
}

}  // namespace dynatrain::membership
