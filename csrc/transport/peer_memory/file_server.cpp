#include "transport/peer_memory/file_server.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <poll.h>
#include <sys/eventfd.h>
#include <system_error>

namespace dynatrain {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxConnections = 256;  // the rest waits to be accepted
constexpr std::chrono::milliseconds kPause{100};

[[noreturn]] void throw_no_server(const char* what, int error) {
  throw DeviceError("transport: the system gives no " + std::string(what) +
                    " to hand out files of memory: " + std::generic_category().message(error) +
                    "\n  nothing was offered; no state has changed\n  let this process open more "
                    "files (ulimit -n), or run over messages");
}

/// A descriptor that is there to be closed.
OwnedFile make_spare() {
  return OwnedFile(eventfd(0, EFD_CLOEXEC));
}

OwnedFile make_wake() {
  OwnedFile made(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!made.is_open()) {
    throw_no_server("event", errno);
  }
  return made;
}

}  // namespace

FileServer::FileServer(std::chrono::milliseconds idle_limit)
    : idle_limit_(idle_limit), name_(make_socket_name()), wake_(make_wake()), spare_(make_spare()) {
  SocketResult listening = listen_at(name_);
  if (listening.error != 0) {
    throw_no_server("socket", listening.error);
  }
  listener_ = std::move(listening.socket);
  thread_ = start_thread("hands out files of memory", [this] { serve(); });
}

FileServer::~FileServer() {
  is_stopping_ = true;
  static_cast<void>(eventfd_write(wake_.get(), 1));
  thread_.join();
}

std::uint64_t FileServer::offer(Open open) {
  const std::lock_guard lock(mutex_);
  offers_.emplace(++last_number_, std::move(open));
  return last_number_;
}

void FileServer::withdraw_all() noexcept {
  const std::lock_guard lock(mutex_);
  offers_.clear();
}

void FileServer::serve() noexcept {
  while (!is_stopping_) {
    try {
      serve_once();
    } catch (const std::exception&) {
      // Readers see their connections end. Logging may wait for whoever waits for this thread to
      // end.
      connections_.clear();
      std::this_thread::sleep_for(kPause);  // no memory, most likely
    }
  }
}

int FileServer::poll_timeout_ms() const {
  Deadline first = Deadline::max();
  for (const Connection& connection : connections_) {
    first = std::min(first, connection.until);
  }
  if (accept_from_ > Clock::now()) {
    first = std::min(first, accept_from_);
  }
  if (first == Deadline::max()) {
    return -1;
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(first - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(0, left.count()));
}

void FileServer::serve_once() {
  const bool accepts = connections_.size() < kMaxConnections && Clock::now() >= accept_from_;
  std::vector<pollfd> polled{
      {.fd = wake_.get(), .events = POLLIN, .revents = 0},
      {.fd = accepts ? listener_.get() : -1, .events = POLLIN, .revents = 0}};
  for (const Connection& connection : connections_) {
    polled.push_back({.fd = connection.socket.get(), .events = POLLIN, .revents = 0});
  }
  if (poll(polled.data(), polled.size(), poll_timeout_ms()) < 0) {
    if (errno != EINTR) {
      std::this_thread::sleep_for(kPause);
    }
    return;
  }
  std::size_t i = 2;
  const Deadline now = Clock::now();
  std::erase_if(connections_, [&](Connection& connection) {
    const bool has_spoken = polled[i++].revents != 0;
    return has_spoken ? !answer(connection) : now >= connection.until;
  });
  if (polled[1].revents != 0) {
    accept_one();
  }
}

void FileServer::accept_one() {
  SocketResult accepted = accept_at(listener_.get());
  if (accepted.error == EMFILE || accepted.error == ENFILE) {
    refuse_one(accepted.error);
  }
  if (accepted.error != 0) {
    accept_from_ = deadline_in(kPause);  // the listener stays readable: without this, a busy loop
    return;
  }
  if (user_at(accepted.socket.get()) != geteuid()) {
    static_cast<void>(send_message(
        accepted.socket.get(),
        encode(FileReply{.answer = FileAnswer::kRefused, .reason = "it belongs to another user"})));
    return;
  }
  connections_.push_back({.socket = std::move(accepted.socket), .until = deadline_in(idle_limit_)});
}

/// Tells a reader that this process can open no file more, which it would wait for in vain. Takes
/// the place of the spare descriptor meanwhile.
void FileServer::refuse_one(int error) {
  spare_ = OwnedFile();
  {
    const SocketResult accepted = accept_at(listener_.get());
    if (accepted.error == 0) {
      // The answer would be lost with a request that nobody has read.
      pollfd request{.fd = accepted.socket.get(), .events = POLLIN, .revents = 0};
      poll(&request, 1, static_cast<int>(kPause.count()));
      static_cast<void>(receive_message(accepted.socket.get()));
      const std::string reason = std::generic_category().message(error) + " there (ulimit -n)";
      static_cast<void>(
          send_message(accepted.socket.get(),
                       encode(FileReply{.answer = FileAnswer::kFailed, .reason = reason})));
    }
  }
  spare_ = make_spare();
}

bool FileServer::answer(Connection& connection) {
  const LocalMessage message = receive_message(connection.socket.get());
  if (message.error == EAGAIN) {
    return true;
  }
  if (message.error != 0 || message.bytes.empty()) {
    return false;
  }
  connection.until = deadline_in(idle_limit_);
  const auto file = decode_file_request(message.bytes);
  if (file.has_value()) {
    return give(connection.socket.get(), *file);
  }
  static_cast<void>(send_message(
      connection.socket.get(),
      encode(FileReply{
          .answer = FileAnswer::kRefused,
          .reason = "this is no request for a file; use one version of dynatrain everywhere"})));
  return false;
}

bool FileServer::give(int socket, std::uint64_t file) {
  // Held until the own copy is closed: after withdraw_all() nothing keeps the memory here.
  const std::lock_guard lock(mutex_);
  const auto offered = offers_.find(file);
  if (offered == offers_.end()) {
    return send_message(socket,
                        encode(FileReply{.answer = FileAnswer::kNotOffered, .reason = {}})) == 0;
  }
  std::string reason;
  try {
    const OwnedFile opened(offered->second());
    const int error = send_message(
        socket, encode(FileReply{.answer = FileAnswer::kGiven, .reason = {}}), opened.get());
    if (error != ETOOMANYREFS && error != EBADF) {
      return error == 0;
    }
    reason = "it cannot be sent: " + std::generic_category().message(error);
  } catch (const std::exception& error) {
    reason = error.what();
  }
  return send_message(socket, encode(FileReply{.answer = FileAnswer::kFailed, .reason = reason})) ==
         0;
}

}  // namespace dynatrain
