#include "transport/peer_memory/probe.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include "transport/peer_memory/exporter.hpp"
#include "transport/peer_memory/mappings.hpp"
#include "transport/peer_memory/meeting.hpp"
#include "transport/peer_memory/peer_wait.hpp"
#include "transport/peer_memory/words.hpp"
#include <algorithm>
#include <array>
#include <exception>
#include <fstream>
#include <optional>
#include <random>
#include <span>
#include <unistd.h>
#include <vector>

namespace dynatrain {
namespace {

constexpr std::array kKinds{IpcKind::kHandle, IpcKind::kFile};
using Problems = std::array<std::string, kKinds.size()>;

/// A piece of memory that holds a word of this rank, published until the end of the scope. The word
/// is new each time: what an earlier probe left in memory must not pass for it.
class ProbeMemory {
 public:
  ProbeMemory(const IpcProbe& probe, IpcKind kind, Deadline deadline)
      : api_(probe.api), exporter_(probe.api), word_(random_word()) {
    if (api_ == nullptr) {
      publication_.refusal = probe.api_problem;
      return;
    }
    try {
      const IpcPiece piece = api_->allocate(kind);
      api_->write(piece.base, word_, deadline);
      piece_ = piece;  // only now: what may be written still is never freed
      const ExposedBuffer buffer{BufferId(0), piece_->base, sizeof(std::uint64_t)};
      publication_ = exporter_.make(std::span(&buffer, 1));
    } catch (const DeviceError& error) {
      publication_.refusal = error.what();
    }
  }
  ~ProbeMemory() {
    exporter_.close();
    try {
      if (piece_.has_value()) {
        api_->free(*piece_);
      }
    } catch (const std::exception& error) {
      log(LogLevel::kWarning, "transport", error.what());
    }
  }
  ProbeMemory(const ProbeMemory&) = delete;
  ProbeMemory& operator=(const ProbeMemory&) = delete;
  [[nodiscard]] const IpcPublication& publication() const { return publication_; }
  [[nodiscard]] std::uint64_t word() const { return word_; }

 private:
  static std::uint64_t random_word() {
    std::random_device random;
    return (static_cast<std::uint64_t>(random()) << 32) | random();
  }

  std::shared_ptr<IpcApi> api_;
  Exporter exporter_;
  std::uint64_t word_;
  std::optional<IpcPiece> piece_;
  IpcPublication publication_;
};

struct Trial {
  const IpcProbe& probe;
  const PeerWait& wait;
  Lifelines& lifelines;
};

std::string introduce(const IpcPlace& place,
                      const std::string& lifeline,
                      const std::array<const ProbeMemory*, 2>& memory) {
  WordWriter out;
  out.text(place.boot);
  out.text(place.host);
  out.text(place.network_space);
  out.text(lifeline);
  for (const ProbeMemory* const piece : memory) {
    out.text(encode(piece->publication()));
    out.number(piece->word());
  }
  return out.take();
}

std::string place_problem(const IpcPlace& own, const IpcPlace& theirs, IpcKind kind) {
  if (own.boot != theirs.boot) {
    return "it runs on another machine, '" + theirs.host + "', than '" + own.host + "'";
  }
  if (kind == IpcKind::kFile && own.network_space != theirs.network_space) {
    return "it runs in another network namespace, where the socket of its files cannot be reached "
           "(give "
           "the containers of a host one network)";
  }
  return "";
}

/// Why this rank cannot read `word` in what the peer published; empty when it can.
std::string read_problem(const Trial& trial,
                         int peer,
                         IpcPublication publication,
                         std::uint64_t word) {
  const IpcProbe& probe = trial.probe;
  if (!publication.refusal.empty()) {
    return publication.refusal;
  }
  if (probe.api == nullptr) {
    return probe.api_problem;
  }
  try {
    Mappings mappings(probe.api);
    mappings.meet(peer, 0, std::move(publication));
    const SourceAddress mapped = mappings.map(peer, BufferId(0), trial.wait);
    return probe.api->read(mapped, trial.wait.deadline) == word
               ? ""
               : "other bytes were read than were written";
  } catch (const Error& error) {
    return error.what();  // a file that does not come, too: the others wait for a verdict
  }
}

void try_peer(const Trial& trial, int peer, const std::string& introduction, Problems& problems) {
  const IpcProbe& probe = trial.probe;
  WordReader in(introduction, peer);
  IpcPlace place;
  place.boot = in.text();
  place.host = in.text();
  place.network_space = in.text();
  const std::string lifeline = in.text();
  if (place.boot == probe.place.boot) {
    trial.lifelines.hold(peer, lifeline);
  }
  for (std::size_t k = 0; k < kKinds.size(); ++k) {
    IpcPublication publication = decode_publication(in.text(), peer);
    const std::uint64_t word = in.number();
    if (!problems[k].empty()) {
      continue;
    }
    std::string problem = place_problem(probe.place, place, kKinds[k]);
    if (problem.empty()) {
      problem = read_problem(trial, peer, std::move(publication), word);
    }
    if (!problem.empty()) {
      problems[k] = "rank " + std::to_string(probe.rank) + " cannot read memory of rank " +
                    std::to_string(peer) + ": " + problem;
    }
  }
}

/// `problems`, and of each kind that has none yet the first one with memory of a peer.
Problems try_all(const Trial& trial,
                 const std::vector<std::string>& introductions,
                 Problems problems) {
  for (std::size_t i = 0; i < introductions.size(); ++i) {
    const int peer = trial.probe.ranks[i];
    if (peer != trial.probe.rank) {
      try_peer(trial, peer, introductions[i], problems);
    }
  }
  return problems;
}

std::string encode(const Problems& problems) {
  WordWriter out;
  for (const std::string& problem : problems) {
    out.text(problem);
  }
  return out.take();
}

Problems read_problems(WordReader& in) {
  Problems problems;
  for (std::string& problem : problems) {
    problem = in.text();
  }
  return problems;
}

bool all_have_one(const Problems& problems) {
  return std::ranges::none_of(problems, &std::string::empty);
}

std::string encode_answer(const Problems& of_first, const std::vector<std::string>& introductions) {
  std::string answer = encode(of_first);
  WordWriter out;
  for (const std::string& introduction : introductions) {
    out.text(introduction);
  }
  return all_have_one(of_first) ? answer : answer + out.take();
}

/// The problems of this rank, once it has tried its peers. Where the first has one of each kind
/// they are the verdict already, and nobody tries more: not even what the ranks say of themselves
/// goes around.
Problems try_peers(const Trial& trial,
                   const Meeting& meeting,
                   const std::string& introduction,
                   const Problems& own) {
  Problems found;
  const std::string answer = meet(
      meeting, "probe/memory", introduction, [&](const std::vector<std::string>& introductions) {
        found = try_all(trial, introductions, own);
        return encode_answer(found, introductions);
      });
  if (meeting.rank == meeting.ranks.front()) {
    return found;
  }
  WordReader in(answer, meeting.ranks.front());
  Problems of_first = read_problems(in);
  if (all_have_one(of_first)) {
    return of_first;
  }
  std::vector<std::string> introductions(meeting.ranks.size());
  for (std::string& each : introductions) {
    each = in.text();
  }
  return try_all(trial, introductions, own);
}

/// The problem of the lowest rank that has one, the same on all ranks.
Problems agree_on(const Problems& own, const Meeting& meeting) {
  const std::string agreed = meet(
      meeting, "probe/verdict", encode(own), [&meeting](const std::vector<std::string>& verdicts) {
        Problems lowest;
        for (std::size_t i = 0; i < verdicts.size(); ++i) {
          WordReader in(verdicts[i], meeting.ranks[i]);
          const Problems theirs = read_problems(in);
          for (std::size_t k = 0; k < lowest.size(); ++k) {
            lowest[k] = lowest[k].empty() ? theirs[k] : lowest[k];
          }
        }
        return encode(lowest);
      });
  WordReader in(agreed, meeting.ranks.front());
  return read_problems(in);
}

Problems own_problems(const std::array<const ProbeMemory*, 2>& memory, int rank) {
  Problems problems;
  for (std::size_t k = 0; k < problems.size(); ++k) {
    const std::string& refusal = memory[k]->publication().refusal;
    problems[k] = refusal.empty()
                      ? ""
                      : "rank " + std::to_string(rank) + " cannot share its memory: " + refusal;
  }
  return problems;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

IpcPlace this_place() {
  std::array<char, 256> text{};
  IpcPlace place;
  place.boot = first_line("/proc/sys/kernel/random/boot_id");
  if (gethostname(text.data(), text.size() - 1) == 0) {
    place.host = text.data();
  }
  text.fill('\0');
  if (readlink("/proc/self/ns/net", text.data(), text.size() - 1) > 0) {
    place.network_space = text.data();
  }
  return place;
}

PeerMemoryReport run_probe(const IpcProbe& probe,
                           Lifelines& lifelines,
                           Store& store,
                           Deadline deadline) {
  const AbortFlag never_aborted;
  const bool is_first = probe.rank == probe.ranks.front();
  const PeerWait wait{.deadline = is_first ? deadline_of_first(deadline) : deadline,
                      .aborted = never_aborted,
                      .lifelines = &lifelines};
  const ProbeMemory handle_memory(probe, IpcKind::kHandle, wait.deadline);
  const ProbeMemory file_memory(probe, IpcKind::kFile, wait.deadline);
  const std::array memory{&handle_memory, &file_memory};
  const Meeting meeting{.rank = probe.rank, .ranks = probe.ranks, .store = store, .wait = wait};
  const Trial trial{.probe = probe, .wait = wait, .lifelines = lifelines};
  const Problems found = try_peers(trial,
                                   meeting,
                                   introduce(probe.place, lifelines.name(), memory),
                                   own_problems(memory, probe.rank));
  // Only after the verdicts of all has nobody this rank's memory open any more.
  const Problems problems = agree_on(found, meeting);
  PeerMemoryReport report{
      .problem = {}, .handle_problem = problems[0], .file_problem = problems[1]};
  if (!problems[0].empty() && !problems[1].empty()) {
    report.problem = problems[0] == problems[1]
                         ? problems[0]
                         : problems[0] + "\n  and of the other kind: " + problems[1];
  }
  return report;
}

}  // namespace dynatrain
