#pragma once

#include "transport/peer_memory/owned_file.hpp"
#include <map>
#include <mutex>
#include <string>

namespace dynatrain {

/// How the ranks of one host see each other end: each has a socket, its peers connect to it and
/// hold on. Nobody accepts or says anything, so it takes no thread; the system ends the connections
/// with the process, however that ends.
///
/// A process that was forked from a rank without exec holds the socket as well, and hides its end.
/// Threads  one caller at a time; let_go() at any time.
class Lifelines {
 public:
  Lifelines();

  /// By which peers find this rank; empty when the system gave no socket.
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Watches a peer from now on, where it can be reached.
  void hold(int peer, const std::string& name);
  /// False for a peer that is not watched.
  [[nodiscard]] bool has_ended(int peer) const;
  /// To its peers this rank has ended.
  void let_go() noexcept;

 private:
  std::string name_;
  std::mutex mutex_;
  OwnedFile own_;  ///< guarded by the mutex
  std::map<int, OwnedFile> held_;
};

}  // namespace dynatrain
