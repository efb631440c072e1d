#pragma once

// A process of its own that lends files, as a rank's peer does.

#include <gtest/gtest.h>

#include "transport/peer_memory/owned_file.hpp"
#include <array>
#include <csignal>
#include <cstddef>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace dynatrain {

/// Runs `work` in a child process, with a line in each direction.
class ChildProcess {
 public:
  /// Reads what the other side says, and says something to it.
  struct Line {
    OwnedFile in;
    OwnedFile out;

    void say(const std::string& words) const {
      const std::string framed = words + "\n";
      EXPECT_EQ(write(out.get(), framed.data(), framed.size()),
                static_cast<ssize_t>(framed.size()));
    }
    /// Empty when the other side has ended.
    [[nodiscard]] std::string hear() const {
      std::string words;
      for (char letter = 0; read(in.get(), &letter, 1) == 1 && letter != '\n';) {
        words += letter;
      }
      return words;
    }
  };

  /// `work` returns the exit status. To be called while this process has one thread.
  explicit ChildProcess(const std::function<int(const Line& parent)>& work) {
    std::array<int, 2> down{};
    std::array<int, 2> up{};
    EXPECT_EQ(pipe(down.data()), 0);
    EXPECT_EQ(pipe(up.data()), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(down[1]);
      close(up[0]);
      const int status = work({.in = OwnedFile(down[0]), .out = OwnedFile(up[1])});
      _exit(status);
    }
    close(down[0]);
    close(up[1]);
    line = {.in = OwnedFile(up[0]), .out = OwnedFile(down[1])};
  }
  ~ChildProcess() {
    if (pid_ > 0) {
      kill();
    }
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  void kill() {
    ::kill(pid_, SIGKILL);
    wait();
  }
  /// Returns once all its threads stand.
  void stop() const {
    int status = 0;
    ::kill(pid_, SIGSTOP);
    EXPECT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
    EXPECT_TRUE(WIFSTOPPED(status));
  }
  /// The exit status; -1 when it was killed.
  int wait() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  [[nodiscard]] pid_t pid() const { return pid_; }

  Line line;

 private:
  pid_t pid_ = -1;
};

}  // namespace dynatrain
