// Files that pass from process to process. Memory files stand for what the driver exports.

#include "transport/peer_memory/file_server.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "transport/lent_files.hpp"
#include "transport/open_files.hpp"
#include "transport/owner_process.hpp"
#include "transport/peer_memory/file_fetcher.hpp"
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <thread>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// Lends `text`, and says the name and the number of it; then does what it is told.
int lend(const ChildProcess::Line& parent, const std::string& text) {
  const OwnedFile file(lent_file(text));
  FileServer server;
  parent.say(server.name());
  parent.say(std::to_string(server.offer([&] { return dup(file.get()); })));
  for (std::string order = parent.hear(); !order.empty(); order = parent.hear()) {
    EXPECT_EQ(pwrite(file.get(), order.data(), order.size(), 0),
              static_cast<ssize_t>(order.size()));
    parent.say("written");
  }
  return 0;
}

/// The error of `what`; also when it names no peer, or another one than 1.
template <class What>
std::string peer_error_of(const What& what) {
  try {
    what();
  } catch (const TransportError& error) {
    return error.peer == 1 ? error.what() : "it names another peer";
  } catch (const DeviceError& error) {
    return std::string("DeviceError: ") + error.what();
  }
  return "no error";
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Every test begins and ends with the same descriptors.
class FileServerTest : public ::testing::Test {
 protected:
  ~FileServerTest() override { EXPECT_EQ(count_open_files(), num_open_) << "descriptors leak"; }

  const int num_open_ = count_open_files();
};

// Half a character at its end would make an error of the reader's that Python cannot show.
TEST(FileWords, LongReasonEndsWithAWholeCharacter) {
  std::string reason(kMaxReasonBytes - 1, 'x');
  const std::string kept = reason;
  reason += "\u00e9 and more";
  const auto reply =
      decode_file_reply(encode(FileReply{.answer = FileAnswer::kFailed, .reason = reason}));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->reason, kept);
}

// The reader maps the owner's pages: a copy would hold what was there before the training step.
TEST_F(FileServerTest, FileOfAnotherProcessIsTheSameMemory) {
  ChildProcess owner([](const auto& parent) { return lend(parent, "before"); });
  const std::string name = owner.line.hear();
  FileFetcher files(name, 1, late());
  OwnedFile file = files.fetch(std::stoull(owner.line.hear()));
  void* const mapped = mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, file.get(), 0);
  file.reset();
  EXPECT_STREQ(static_cast<const char*>(mapped), "before");
  owner.line.say("after!");
  EXPECT_EQ(owner.line.hear(), "written");
  EXPECT_STREQ(static_cast<const char*>(mapped), "after!");
  munmap(mapped, kBytes);
  owner.line.out.reset();
  EXPECT_EQ(owner.wait(), 0);
}

// A rank that died must be named at once: its readers hold up all others.
TEST_F(FileServerTest, OwnerThatIsGoneIsNamedBeforeTheDeadline) {
  const PeerWait endless{.deadline = Deadline::max(), .aborted = kNotAborted};
  ChildProcess owner([](const auto& parent) { return lend(parent, "lent"); });
  const std::string name = owner.line.hear();
  const std::uint64_t number = std::stoull(owner.line.hear());
  FileFetcher connected(name, 1, endless);
  owner.kill();
  const std::string in_the_middle =
      peer_error_of([&] { static_cast<void>(connected.fetch(number)); });
  EXPECT_TRUE(holds(in_the_middle, "closed the connection")) << in_the_middle;
  const std::string at_first = peer_error_of([&] { FileFetcher(name, 1, endless); });
  EXPECT_TRUE(holds(at_first, "has ended") && holds(at_first, name)) << at_first;
}

TEST_F(FileServerTest, WrongNameIsNamed) {
  const FileServer other;
  const std::string name = make_socket_name();
  EXPECT_NE(name, other.name());
  const std::string error = peer_error_of([&] { FileFetcher(name, 1, late()); });
  EXPECT_TRUE(holds(error, "nobody hands out the files") && holds(error, name)) << error;
}

// A stopped process holds its sockets: only the deadline tells it from a slow one.
TEST_F(FileServerTest, OwnerThatStallsEndsTheWaitAtTheDeadline) {
  ChildProcess owner([](const auto& parent) { return lend(parent, "lent"); });
  const std::string name = owner.line.hear();
  const std::uint64_t number = std::stoull(owner.line.hear());
  owner.stop();
  const std::string error =
      peer_error_of([&] { static_cast<void>(FileFetcher(name, 1, soon()).fetch(number)); });
  EXPECT_TRUE(holds(error, "has not sent the file")) << error;
}

TEST_F(FileServerTest, FullQueueOfAnOwnerEndsTheWaitAtTheDeadline) {
  const std::string name = make_socket_name();
  const SocketResult owner = listen_at(name);
  ASSERT_EQ(listen(owner.socket.get(), 1), 0);
  std::vector<OwnedFile> waiting;
  int error = 0;
  while (error == 0) {
    SocketResult connected = connect_to(name);
    error = connected.error;
    waiting.push_back(std::move(connected.socket));
  }
  ASSERT_EQ(error, EAGAIN);
  const std::string told = peer_error_of([&] { FileFetcher(name, 1, soon()); });
  EXPECT_TRUE(holds(told, "has not taken the connection")) << told;
}

TEST_F(FileServerTest, AbortEndsAWaitWithItsReason) {
  const std::string name = make_socket_name();
  const SocketResult owner = listen_at(name);  // never accepts
  AbortFlag aborted;
  FileFetcher files(name, 1, {.deadline = Deadline::max(), .aborted = aborted});
  std::thread aborter([&] { aborted.raise("the user changed their mind"); });
  try {
    static_cast<void>(files.fetch(1));
    ADD_FAILURE() << "the fetch ended well";
  } catch (const TransportError& error) {
    EXPECT_TRUE(holds(error.what(), "changed their mind")) << error.what();
  }
  aborter.join();
}

// A former number that met a later file would map other memory under a known name.
TEST_F(FileServerTest, WithdrawnFileIsRefusedAndItsNumberIsNotGivenAgain) {
  std::atomic<int> num_opened = 0;
  const auto open = [&] {
    ++num_opened;
    return lent_file("lent");
  };
  FileServer server;
  FileFetcher files(server.name(), 1, late());
  const std::uint64_t former = server.offer(open);
  EXPECT_EQ(num_opened, 0) << "an offer costs no descriptor";
  EXPECT_EQ(text_of(files.fetch(former)), "lent");
  server.withdraw_all();
  EXPECT_EQ(count_open_files("memfd:lent"), 0);
  const std::uint64_t latter = server.offer(open);
  for (const std::uint64_t none : {former, latter + 1, std::uint64_t{0}}) {
    const std::string error = peer_error_of([&] { static_cast<void>(files.fetch(none)); });
    EXPECT_TRUE(holds(error, "does not offer")) << error;
  }
  EXPECT_EQ(num_opened, 1);
  EXPECT_EQ(text_of(files.fetch(latter)), "lent") << "a refusal does not end the connection";
}

// The driver's words must reach the rank that meets them in its log.
TEST_F(FileServerTest, OpenThatFailsIsToldToTheReader) {
  FileServer server;
  const std::uint64_t broken =
      server.offer([]() -> int { throw DeviceError("the driver says no"); });
  const std::uint64_t whole = server.offer([] { return lent_file("lent"); });
  FileFetcher files(server.name(), 1, late());
  const std::string error = peer_error_of([&] { static_cast<void>(files.fetch(broken)); });
  EXPECT_TRUE(holds(error, "DeviceError: ") && holds(error, "the driver says no")) << error;
  EXPECT_EQ(text_of(files.fetch(whole)), "lent");
}

/// Waits until the other end has closed; false when it has not within 20 s.
bool is_closed(int socket) {
  pollfd polled{.fd = socket, .events = POLLIN, .revents = 0};
  while (poll(&polled, 1, 20'000) == 1) {
    const LocalMessage message = receive_message(socket);
    if (message.error == ECONNRESET || (message.error == 0 && message.bytes.empty())) {
      return true;
    }
  }
  return false;
}

TEST_F(FileServerTest, ReaderThatSaysNothingKeepsNobodyWaitingAndIsDropped) {
  FileServer server(std::chrono::milliseconds(20));
  const std::uint64_t number = server.offer([] { return lent_file("lent"); });
  const SocketResult silent = connect_to(server.name());
  ASSERT_EQ(silent.error, 0);
  EXPECT_EQ(fetched_text(server.name(), number), "lent");
  EXPECT_TRUE(is_closed(silent.socket.get()));
}

// Replies that nobody takes would pile up, each with the memory behind its file.
TEST_F(FileServerTest, ReaderThatTakesNoReplyIsDropped) {
  FileServer server;
  const std::uint64_t number = server.offer([] { return lent_file("lent"); });
  SocketResult greedy = connect_to(server.name());
  const Deadline end = deadline_in(std::chrono::seconds(20));
  int error = 0;
  while ((error == 0 || error == EAGAIN) && std::chrono::steady_clock::now() < end) {
    error = send_message(greedy.socket.get(), encode_file_request(number));
  }
  EXPECT_TRUE(error == EPIPE || error == ECONNRESET) << error;
  EXPECT_EQ(fetched_text(server.name(), number), "lent");
}

TEST_F(FileServerTest, BadRequestIsRefusedAndOthersAreServed) {
  FileServer server;
  const std::uint64_t number = server.offer([] { return lent_file("lent"); });
  for (const std::string& bad : {std::string("?"),
                                 std::string(900, 'x'),
                                 encode_file_request(number) + "more",
                                 two_words(kFileFormat + 1, number)}) {
    const SocketResult reader = connect_to(server.name());
    ASSERT_EQ(send_message(reader.socket.get(), bad), 0);
    pollfd polled{.fd = reader.socket.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&polled, 1, 20'000), 1);
    const LocalMessage answer = receive_message(reader.socket.get());
    EXPECT_FALSE(answer.file.is_open());
    const std::optional<FileReply> reply = decode_file_reply(answer.bytes);
    ASSERT_TRUE(reply.has_value());
    EXPECT_EQ(reply->answer, FileAnswer::kRefused);
    EXPECT_TRUE(is_closed(reader.socket.get()));
  }
  EXPECT_EQ(fetched_text(server.name(), number), "lent");
}

// Whoever answers may be of another version, or no rank at all.
TEST_F(FileServerTest, AnswerThatIsNoneIsRefused) {
  const std::string name = make_socket_name();
  const SocketResult owner = listen_at(name);
  FileFetcher files(name, 1, late());
  const SocketResult reader = accept_at(owner.socket.get());
  const OwnedFile extra(lent_file("lent"));
  ASSERT_EQ(send_message(reader.socket.get(), "nonsense", extra.get()), 0);
  const std::string error = peer_error_of([&] { static_cast<void>(files.fetch(1)); });
  EXPECT_TRUE(holds(error, "8 bytes is not of this version")) << error;
}

// Two files fit into the padding of a message with room for one: the second one would leak.
TEST_F(FileServerTest, SecondFileOfAMessageIsNotLeftOpen) {
  std::array<int, 2> pair{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair.data()), 0);
  const OwnedFile sender(pair[0]);
  const OwnedFile receiver(pair[1]);
  const OwnedFile file(lent_file("lent"));
  const std::array<int, 2> files{file.get(), file.get()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(files))> room{};
  std::string bytes = "two";
  iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room.data();
  message.msg_controllen = room.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(files));
  std::memcpy(CMSG_DATA(header), files.data(), sizeof(files));
  ASSERT_EQ(sendmsg(sender.get(), &message, 0), 3);
  EXPECT_EQ(text_of(receive_message(receiver.get()).file), "lent");
  EXPECT_EQ(count_open_files("memfd:lent"), 1);
}

// As in a switch on one host: all ranks read one of them at once, and some die of it.
TEST_F(FileServerTest, ManyProcessesReadAtOnceAndNoneOfThemWaitsForADeadOne) {
  constexpr int kNumReaders = 12;
  constexpr std::uint64_t kNumFiles = 40;
  std::vector<std::unique_ptr<ChildProcess>> readers;
  for (int i = 0; i < kNumReaders; ++i) {
    readers.push_back(std::make_unique<ChildProcess>([i](const auto& parent) {
      FileFetcher files(parent.hear(), 1, late());
      for (std::uint64_t file = 1; file <= kNumFiles; ++file) {
        if (i % 4 == 0 && file == kNumFiles / 2) {
          raise(SIGKILL);
        }
        if (text_of(files.fetch(file)) != "file " + std::to_string(file)) {
          return 1;
        }
      }
      return 0;
    }));
  }
  FileServer server;
  for (std::uint64_t file = 1; file <= kNumFiles; ++file) {
    EXPECT_EQ(server.offer([file] { return lent_file("file " + std::to_string(file)); }), file);
  }
  for (const auto& reader : readers) {
    reader->line.say(server.name());
  }
  for (int i = 0; i < kNumReaders; ++i) {
    EXPECT_EQ(readers[static_cast<std::size_t>(i)]->wait(), i % 4 == 0 ? -1 : 0) << "reader " << i;
  }
  readers.clear();
  server.withdraw_all();
  EXPECT_EQ(count_open_files("memfd:lent"), 0);
}

// Names of sockets can be listed by anybody on the machine; the memory is the user's alone.
TEST_F(FileServerTest, AnotherUserGetsNothing) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "only root can act as another user";
  }
  ChildProcess stranger([](const auto& parent) {
    const std::string name = parent.hear();
    if (setuid(65534) != 0) {
      return 2;
    }
    const std::string error = peer_error_of([&] { FileFetcher(name, 1, late()); });
    const bool is_told =
        holds(error, "DeviceError: ") && holds(error, "of user 0") && holds(error, "of user 65534");
    const SocketResult raw = connect_to(name);  // without the fetcher's own check
    static_cast<void>(send_message(raw.socket.get(), encode_file_request(1)));
    pollfd polled{.fd = raw.socket.get(), .events = POLLIN, .revents = 0};
    const bool is_answered = poll(&polled, 1, 20'000) == 1;
    const bool has_file = receive_message(raw.socket.get()).file.is_open();
    return is_told && is_answered && !has_file ? 0 : 1;
  });
  FileServer server;
  static_cast<void>(server.offer([] { return lent_file("lent"); }));
  stranger.line.say(server.name());
  EXPECT_EQ(stranger.wait(), 0);
}

}  // namespace
}  // namespace dynatrain
