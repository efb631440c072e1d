#include "transport/cuda_ipc/probe.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include "transport/cuda_ipc/exporter.hpp"
#include "transport/cuda_ipc/mappings.hpp"
#include "transport/cuda_ipc/words.hpp"
#include <array>
#include <exception>
#include <fstream>
#include <optional>
#include <span>
#include <unistd.h>
#include <vector>

namespace dynatrain {
namespace {

constexpr std::array kKinds{IpcKind::kHandle, IpcKind::kFile};
using Problems = std::array<std::string, kKinds.size()>;

/// A piece of memory that holds a word of this rank, published until the end of the scope.
class ProbeMemory {
 public:
  ProbeMemory(const IpcProbe& probe, IpcKind kind) : api_(probe.api), exporter_(probe.api) {
    if (api_ == nullptr) {
      publication_.refusal = probe.api_problem;
      return;
    }
    try {
      piece_ = api_->allocate(kind);
      api_->write(piece_->base, word_of(probe.rank));
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

  static std::uint64_t word_of(int rank) {
    return 0x9e3779b97f4a7c15ULL * (static_cast<std::uint64_t>(rank) + 1);
  }

 private:
  std::shared_ptr<IpcApi> api_;
  Exporter exporter_;
  std::optional<IpcPiece> piece_;
  IpcPublication publication_;
};

std::string introduce(const IpcPlace& place, const std::array<const ProbeMemory*, 2>& memory) {
  WordWriter out;
  out.text(place.boot);
  out.text(place.host);
  out.text(place.process_space);
  for (const ProbeMemory* const piece : memory) {
    out.text(encode(piece->publication()));
  }
  return out.take();
}

std::string place_problem(const IpcPlace& own, const IpcPlace& theirs, IpcKind kind) {
  if (own.boot != theirs.boot) {
    return "it runs on another machine, '" + theirs.host + "', than '" + own.host + "'";
  }
  if (kind == IpcKind::kFile && own.process_space != theirs.process_space) {
    return "it runs in another process namespace, where file descriptors cannot be fetched";
  }
  return "";
}

/// Why this rank cannot read what the peer published; empty when it can.
std::string read_problem(const IpcProbe& probe, int peer, IpcPublication publication) {
  if (!publication.refusal.empty()) {
    return publication.refusal;
  }
  if (probe.api == nullptr) {
    return probe.api_problem;
  }
  try {
    Mappings mappings(probe.api);
    mappings.meet(peer, 0, std::move(publication));
    const std::uint64_t word = probe.api->read(mappings.map(peer, BufferId(0)));
    return word == ProbeMemory::word_of(peer) ? "" : "other bytes were read than were written";
  } catch (const DeviceError& error) {
    return error.what();
  }
}

void try_peer(const IpcProbe& probe, int peer, const std::string& words, Problems& problems) {
  WordReader in(words, peer);
  IpcPlace place;
  place.boot = in.text();
  place.host = in.text();
  place.process_space = in.text();
  for (std::size_t k = 0; k < kKinds.size(); ++k) {
    IpcPublication publication = decode_publication(in.text(), peer);
    if (!problems[k].empty()) {
      continue;
    }
    std::string problem = place_problem(probe.place, place, kKinds[k]);
    if (problem.empty()) {
      problem = read_problem(probe, peer, std::move(publication));
    }
    if (!problem.empty()) {
      problems[k] = "rank " + std::to_string(probe.rank) + " cannot read memory of rank " +
                    std::to_string(peer) + ": " + problem;
    }
  }
}

/// The problem of the lowest rank that has one, the same on all ranks.
Problems agree_on(const IpcProbe& probe, const Problems& own, Store& store, Deadline deadline) {
  WordWriter out;
  for (const std::string& problem : own) {
    out.text(problem);
  }
  store.set("probe/verdict/" + std::to_string(probe.rank), out.take());
  StoreWait wait;
  Problems agreed;
  for (int rank = 0; rank < probe.size; ++rank) {
    Problems theirs = own;
    if (rank != probe.rank) {
      const std::string words =
          wait.get(store, "probe/verdict/" + std::to_string(rank), rank, deadline);
      WordReader in(words, rank);
      for (std::string& problem : theirs) {
        problem = in.text();
      }
    }
    for (std::size_t k = 0; k < agreed.size(); ++k) {
      agreed[k] = agreed[k].empty() ? theirs[k] : agreed[k];
    }
  }
  return agreed;
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
  if (readlink("/proc/self/ns/pid", text.data(), text.size() - 1) > 0) {
    place.process_space = text.data();
  }
  return place;
}

CudaIpcReport run_probe(const IpcProbe& probe, Store& store, Deadline deadline) {
  const ProbeMemory handle_memory(probe, IpcKind::kHandle);
  const ProbeMemory file_memory(probe, IpcKind::kFile);
  const std::array memory{&handle_memory, &file_memory};
  store.set("probe/memory/" + std::to_string(probe.rank), introduce(probe.place, memory));
  Problems problems = own_problems(memory, probe.rank);
  StoreWait wait;
  for (int peer = 0; peer < probe.size; ++peer) {
    if (peer != probe.rank) {
      const std::string words =
          wait.get(store, "probe/memory/" + std::to_string(peer), peer, deadline);
      try_peer(probe, peer, words, problems);
    }
  }
  // Only after the verdicts of all has nobody this rank's memory open any more.
  problems = agree_on(probe, problems, store, deadline);
  CudaIpcReport report{.problem = {}, .handle_problem = problems[0], .file_problem = problems[1]};
  if (!problems[0].empty() && !problems[1].empty()) {
    report.problem = problems[0] == problems[1]
                         ? problems[0]
                         : problems[0] + "\n  and of the other kind: " + problems[1];
  }
  return report;
}

}  // namespace dynatrain
