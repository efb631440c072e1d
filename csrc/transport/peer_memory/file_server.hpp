#pragma once

#include "dynatrain/base/token.hpp"

#include "transport/peer_memory/file_words.hpp"
#include "transport/peer_memory/local_socket.hpp"
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {

/// Hands out copies of files to other processes of this user: what is on offer, and nothing else.
///
/// A file is opened when somebody asks for it, and closed again once the copy is on its way, so
/// offering costs no descriptor. A reader that is silent, stalls or dies is dropped after the idle
/// limit and keeps nobody else waiting.
/// Threads  any; `Open` is called on the server's thread.
class FileServer {
 public:
  /// Opens the file that is offered; the server closes it.
  using Open = std::function<int()>;
  static constexpr std::chrono::milliseconds kIdleLimit{10'000};

  /// Errors: DeviceError when the system gives no socket, event or thread.
  explicit FileServer(std::chrono::milliseconds idle_limit = kIdleLimit);
  ~FileServer();
  FileServer(const FileServer&) = delete;
  FileServer& operator=(const FileServer&) = delete;

  /// By which readers find it.
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Returns the number to ask for, which is never given twice.
  [[nodiscard]] std::uint64_t offer(Open open);
  /// Afterwards nothing is on offer, and no `Open` runs.
  void withdraw_all() noexcept;

 private:
  struct Connection {
    OwnedFile socket;
    Deadline until;  ///< when it is dropped unless it says something
  };

  void serve() noexcept;
  void serve_once();
  [[nodiscard]] int poll_timeout_ms() const;
  void accept_one();
  void refuse_one(int error);
  /// False when the connection is of no further use.
  [[nodiscard]] bool answer(Connection& connection);
  [[nodiscard]] bool give(int socket, std::uint64_t file);

  std::chrono::milliseconds idle_limit_;
  std::string name_;
  OwnedFile listener_;
  OwnedFile wake_;
  OwnedFile spare_;  ///< closed where a reader must be told that nothing more can be opened
  std::atomic<bool> is_stopping_ = false;
  std::vector<Connection> connections_;  ///< of the server's thread
  Deadline accept_from_;                 ///< the system refused to accept before

  std::mutex mutex_;  ///< of what follows
  std::map<std::uint64_t, Open> offers_;
  std::uint64_t last_number_ = 0;

  std::thread thread_;
};

}  // namespace dynatrain
