#include "transport/peer_memory/file_fetcher.hpp"

#include "dynatrain/base/error.hpp"

#include "transport/peer_memory/file_words.hpp"
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <poll.h>
#include <system_error>

namespace dynatrain {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kNothingRead = "\n  nothing of it was read; no state has changed";

std::string system_words(int error) {
  return std::generic_category().message(error);
}

std::string memory_of(int peer) {
  return "memory of rank " + std::to_string(peer);
}

[[noreturn]] void throw_closed(int peer) {
  throw TransportError("transport: rank " + std::to_string(peer) +
                           " closed the connection before it had sent the file of its "
                           "memory\n  expected one file, got none: the rank has ended, or it "
                           "waited too long for this one" +
                           kNothingRead + "\n  see the output of that rank",
                       peer,
                       -1,
                       true);
}

[[noreturn]] void throw_refused(int peer, const std::string& reason) {
  throw DeviceError("transport: the file of " + memory_of(peer) + " was refused: " + reason +
                    kNothingRead + "\n  run all ranks of a host as one user, or over messages");
}

OwnedFile take(const FileReply& reply, LocalMessage& message, int peer) {
  switch (reply.answer) {
    case FileAnswer::kGiven:
      if (!message.file.is_open()) {
        throw DeviceError("transport: the file of " + memory_of(peer) +
                          " was sent and did not arrive\n  this process may have as many files "
                          "open as it is allowed to" +
                          kNothingRead + "\n  raise its limit (ulimit -n)");
      }
      return std::move(message.file);
    case FileAnswer::kNotOffered:
      throw TransportError("transport: rank " + std::to_string(peer) +
                               " does not offer the file of its memory any more\n  it was "
                               "withdrawn before this rank had opened it" +
                               kNothingRead + "\n  map all sources before the owner's run ends",
                           peer,
                           -1,
                           false);
    case FileAnswer::kFailed:
      throw DeviceError("transport: rank " + std::to_string(peer) +
                        " could not open the file of its memory: " + reply.reason + kNothingRead +
                        "\n  see the output of that rank, or leave what it has to messages");
    case FileAnswer::kRefused:
      break;
  }
  throw_refused(peer, reply.reason);
}

}  // namespace

FileFetcher::FileFetcher(const std::string& name, int peer, const PeerWait& wait)
    : peer_(peer), wait_(wait) {
  connect(name);
  const uid_t theirs = user_at(socket_.get());
  if (theirs != geteuid()) {
    throw_refused(peer_,
                  "its process is of user " + std::to_string(theirs) + ", this one of user " +
                      std::to_string(geteuid()));
  }
}

void FileFetcher::connect(const std::string& name) {
  while (true) {
    wait_.aborted.check();
    SocketResult connected = connect_to(name);
    if (connected.error == 0) {
      socket_ = std::move(connected.socket);
      return;
    }
    if (connected.error == ECONNREFUSED) {
      throw TransportError("transport: nobody hands out the files of " + memory_of(peer_) +
                               " any more\n  expected a socket called '" + name +
                               "', got: " + system_words(connected.error) +
                               "\n  the rank has ended, or is in another network namespace" +
                               kNothingRead + "\n  see the output of that rank",
                           peer_,
                           -1,
                           true);
    }
    if (connected.error != EAGAIN && connected.error != EINTR) {
      throw DeviceError("transport: no connection to the socket that hands out the files of " +
                        memory_of(peer_) + ": " + system_words(connected.error) +
                        "\n  expected one called '" + name + "' in this network namespace" +
                        kNothingRead +
                        "\n  let this process open more files (ulimit -n), or leave what that "
                        "rank has to messages");
    }
    check_deadline("taken the connection");
    // Its queue is full, and the system offers no wait for that.
    poll(nullptr, 0, 1);
  }
}

OwnedFile FileFetcher::fetch(std::uint64_t file) {
  wait_.aborted.check();
  // Where the other end has closed, receive() says so.
  static_cast<void>(send_message(socket_.get(), encode_file_request(file)));
  LocalMessage message = receive();
  if (message.error != 0 || message.bytes.empty()) {
    throw_closed(peer_);
  }
  const std::optional<FileReply> reply = decode_file_reply(message.bytes);
  if (!reply.has_value()) {
    throw_refused(peer_,
                  "its answer of " + std::to_string(message.bytes.size()) +
                      " bytes is not of this version of dynatrain");
  }
  return take(*reply, message, peer_);
}

LocalMessage FileFetcher::receive() {
  while (true) {
    wait_.aborted.check();
    LocalMessage message = receive_message(socket_.get());
    if (message.error != EAGAIN && message.error != EINTR) {
      return message;
    }
    check_deadline("sent the file of its memory");
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(wait_.deadline - Clock::now());
    pollfd polled{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    poll(&polled,
         1,
         static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, PeerWait::kSlice.count())));
  }
}

void FileFetcher::check_deadline(const std::string& what) const {
  if (Clock::now() >= wait_.deadline) {
    throw TransportError("transport: rank " + std::to_string(peer_) + " has not " + what +
                             " before the deadline\n  it may be stopped, or far behind" +
                             kNothingRead + "\n  see the output of that rank",
                         peer_,
                         -1,
                         true);
  }
}

}  // namespace dynatrain
