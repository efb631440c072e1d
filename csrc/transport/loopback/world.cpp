#include "transport/loopback/world.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/thread.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

namespace dynatrain {
namespace {

std::exception_ptr transport_error(const std::string& message, int peer) {
  return std::make_exception_ptr(TransportError(message, peer, -1, false));
}

std::string direction(const LoopbackEnd& end) {
  return std::string(end.is_send ? "send of " : "receive of ") +
         std::to_string(end.message.size_bytes) + " bytes " + (end.is_send ? "to" : "from") +
         " rank " + std::to_string(end.message.peer) + " (tag " + std::to_string(end.message.tag) +
         ")";
}

std::exception_ptr size_error(const LoopbackEnd& end, const LoopbackEnd& other) {
  return transport_error("transport: the " + direction(end) + " on rank " +
                             std::to_string(end.rank) + " met a message of " +
                             std::to_string(other.message.size_bytes) +
                             " bytes\n  no byte of it was copied\n  the two ranks follow different "
                             "plans; compare their layouts",
                         end.message.peer);
}

}  // namespace

LoopbackState::LoopbackState(int num_ranks, LoopbackOptions loopback_options)
    : options_(loopback_options),
      gone_(static_cast<std::size_t>(num_ranks)),
      random_(loopback_options.adversary_seed) {
  courier_ = start_thread("delivers messages", [this] { deliver(); });
}

LoopbackState::~LoopbackState() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  courier_.join();
  for (int rank = 0; rank < size(); ++rank) {
    remove(rank, "the loopback world was destroyed");
  }
}

LoopbackState::Key LoopbackState::key_of(const LoopbackEnd& end) {
  return {end.is_send ? end.rank : end.message.peer,
          end.is_send ? end.message.peer : end.rank,
          end.message.tag};
}

Token LoopbackState::post(int rank,
                          bool is_send,
                          std::span<const WireMessage> messages,
                          Deadline deadline) {
  auto group = std::make_shared<LoopbackGroup>();
  group->num_open = messages.size();
  Token token(group->completion);
  if (messages.empty()) {
    group->completion->set();
    return token;
  }
  {
    const std::lock_guard lock(mutex_);
    next_expiry_ = std::min(next_expiry_, deadline);
    for (const WireMessage& message : messages) {
      post_end({.rank = rank,
                .is_send = is_send,
                .message = message,
                .deadline = deadline,
                .group = group,
                .mailbox = {}});
    }
  }
  changed_.notify_one();
  return token;
}

void LoopbackState::post_end(LoopbackEnd end) {
  if (end.group->error != nullptr) {
    finish(end, end.group->error);
    return;
  }
  if (end.message.peer < 0 || end.message.peer >= size()) {
    finish(end,
           transport_error("transport: " + direction(end) + ", but there are " +
                               std::to_string(size()) + " ranks",
                           end.message.peer));
    return;
  }
  Waiting& others = end.is_send ? receives_ : sends_;
  const auto other = others.find(key_of(end));
  const bool has_mail = other != others.end() && !end.is_send && !options_.rendezvous;
  if (const std::exception_ptr error = error_if_gone(end); error != nullptr && !has_mail) {
    finish(end, error);
    return;
  }
  if (end.is_send && !options_.rendezvous) {
    end.mailbox.assign(end.message.data, end.message.data + end.message.size_bytes);
    finish(end, nullptr);
    end.group = nullptr;
    end.deadline = Deadline::max();
  }
  if (other == others.end()) {
    wait_for_other(std::move(end));
    return;
  }
  Task task{.send = {}, .receive = {}, .is_copied = false};
  (end.is_send ? task.receive : task.send) = std::move(other->second);
  (end.is_send ? task.send : task.receive) = std::move(end);
  others.erase(other);
  tasks_.push_back(std::move(task));
}

void LoopbackState::wait_for_other(LoopbackEnd end) {
  const Key key = key_of(end);
  Waiting& own = end.is_send ? sends_ : receives_;
  if (own.contains(key)) {
    finish(end,
           std::make_exception_ptr(InternalError(
               "transport: the " + direction(end) + " on rank " + std::to_string(end.rank) +
               " uses a tag that another one still waits with\n  it was not posted\n"
               "  please report this as a bug of dynatrain")));
    return;
  }
  own.emplace(key, std::move(end));
}

void LoopbackState::finish(const LoopbackEnd& end, const std::exception_ptr& error) {
  if (end.group == nullptr) {
    return;  // a mailbox send, which has ended when it was posted
  }
  LoopbackGroup& group = *end.group;
  --group.num_open;
  if (error != nullptr && group.error == nullptr) {
    group.error = error;
    withdraw_group(end.group, error);
  }
  if (group.num_open == 0) {
    if (group.error != nullptr) {
      group.completion->fail(group.error);
    } else {
      group.completion->set();
    }
  }
}

void LoopbackState::withdraw_group(const std::shared_ptr<LoopbackGroup>& group,
                                   const std::exception_ptr& error) {
  for (Waiting* waiting : {&sends_, &receives_}) {
    for (auto it = waiting->begin(); it != waiting->end();) {
      if (it->second.group == group) {
        const LoopbackEnd end = std::move(it->second);
        it = waiting->erase(it);
        finish(end, error);
      } else {
        ++it;
      }
    }
  }
}

std::exception_ptr LoopbackState::error_if_gone(const LoopbackEnd& end) const {
  const std::string& own = gone_[static_cast<std::size_t>(end.rank)];
  if (!own.empty()) {
    return transport_error("transport: the " + direction(end) + " ended on rank " +
                               std::to_string(end.rank) +
                               "\n  the transport of this rank is of no further use: " + own,
                           -1);
  }
  const std::string& peer = gone_[static_cast<std::size_t>(end.message.peer)];
  if (!peer.empty()) {
    return transport_error("transport: the " + direction(end) + " on rank " +
                               std::to_string(end.rank) +
                               " cannot end, as the peer is gone: " + peer,
                           end.message.peer);
  }
  return nullptr;
}

void LoopbackState::remove(int rank, const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    std::string& gone = gone_[static_cast<std::size_t>(rank)];
    if (gone.empty()) {
      gone = reason.empty() ? "no reason was given" : reason;
    }
    fail_ends_of(rank);
  }
  published_changed_.notify_all();
}

void LoopbackState::fail_ends_of(int rank) {
  const auto involves = [rank](const LoopbackEnd& end) {
    return end.rank == rank || end.message.peer == rank;
  };
  std::vector<LoopbackEnd> failed;
  for (Waiting* waiting : {&sends_, &receives_}) {
    for (auto it = waiting->begin(); it != waiting->end();) {
      const bool is_mail = waiting == &sends_ && !options_.rendezvous;
      if (involves(it->second) && !is_mail) {
        failed.push_back(std::move(it->second));
        it = waiting->erase(it);
      } else {
        ++it;
      }
    }
  }
  const auto first = std::stable_partition(tasks_.begin(), tasks_.end(), [&](const Task& task) {
    return task.is_copied || !involves(task.send);
  });
  for (auto it = first; it != tasks_.end(); ++it) {
    failed.push_back(std::move(it->send));
    failed.push_back(std::move(it->receive));
  }
  tasks_.erase(first, tasks_.end());
  for (const LoopbackEnd& end : failed) {
    finish(end, error_if_gone(end));
  }
}

void LoopbackState::expire(Deadline now) {
  if (now < next_expiry_) {
    return;
  }
  std::vector<LoopbackEnd> late;
  next_expiry_ = Deadline::max();
  for (Waiting* waiting : {&sends_, &receives_}) {
    for (auto it = waiting->begin(); it != waiting->end();) {
      if (it->second.deadline <= now) {
        late.push_back(std::move(it->second));
        it = waiting->erase(it);
      } else {
        next_expiry_ = std::min(next_expiry_, it->second.deadline);
        ++it;
      }
    }
  }
  for (const LoopbackEnd& end : late) {
    finish(end,
           transport_error("transport: the " + direction(end) + " on rank " +
                               std::to_string(end.rank) +
                               " reached its deadline\n  the peer has not posted its end; it may "
                               "be stopped, or far behind",
                           end.message.peer));
  }
}

void LoopbackState::deliver() {
  std::unique_lock lock(mutex_);
  while (!is_stopping_) {
    if (tasks_.empty()) {
      // A far deadline is looked at again after an hour: max() overflows inside some wait_until.
      const Deadline wake =
          std::min(next_expiry_, std::chrono::steady_clock::now() + std::chrono::hours(1));
      changed_.wait_until(lock, wake, [this, wake] {
        return is_stopping_ || !tasks_.empty() || next_expiry_ < wake;
      });
      expire(std::chrono::steady_clock::now());
      continue;
    }
    if (has_adversary() && random_() % 4 == 0) {
      // Late on purpose: meanwhile others post, and more can be put in the wrong order.
      changed_.wait_for(lock, std::chrono::microseconds(random_() % 100));
    }
    if (!tasks_.empty()) {
      copy(pick_task(), lock);
    }
    expire(std::chrono::steady_clock::now());
  }
}

LoopbackState::Task LoopbackState::pick_task() {
  std::size_t index = 0;
  if (has_adversary()) {
    if (--victim_turns_ < 0) {
      victim_ = static_cast<int>(random_() % gone_.size());
      victim_turns_ = static_cast<int>(random_() % 64);
    }
    // The victim is served only when nobody else can be, so that the others run ahead of it.
    std::vector<std::size_t> others;
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      if (tasks_[i].send.rank != victim_ && tasks_[i].receive.rank != victim_) {
        others.push_back(i);
      }
    }
    index = others.empty() ? random_() % tasks_.size() : others[random_() % others.size()];
  }
  Task task = std::move(tasks_[index]);
  tasks_.erase(tasks_.begin() + static_cast<std::ptrdiff_t>(index));
  return task;
}

void LoopbackState::copy(Task task, std::unique_lock<std::mutex>& lock) {
  if (task.is_copied) {
    finish(task.send, nullptr);
    finish(task.receive, nullptr);
    return;
  }
  const WireMessage& sent = task.send.message;
  const WireMessage& received = task.receive.message;
  if (sent.size_bytes != received.size_bytes) {
    finish(task.send, size_error(task.send, task.receive));
    finish(task.receive, size_error(task.receive, task.send));
    return;
  }
  const std::byte* data = options_.rendezvous ? sent.data : task.send.mailbox.data();
  if (sent.size_bytes > 0) {
    lock.unlock();
    std::memcpy(received.data, data, static_cast<std::size_t>(sent.size_bytes));
    lock.lock();
  }
  if (!has_adversary()) {
    finish(task.send, nullptr);
    finish(task.receive, nullptr);
    return;
  }
  tasks_.push_back({.send = std::move(task.send), .receive = {}, .is_copied = true});
  tasks_.push_back({.send = {}, .receive = std::move(task.receive), .is_copied = true});
}

void LoopbackState::publish(int rank, std::int64_t number, std::span<const ExposedBuffer> buffers) {
  {
    const std::lock_guard lock(mutex_);
    Exposed& exposed = published_[{rank, number}];
    for (const ExposedBuffer& buffer : buffers) {
      exposed[buffer.buffer] = buffer.base;
    }
  }
  published_changed_.notify_all();
}

const std::byte* LoopbackState::map(const LoopbackReading& reading,
                                    BufferId buffer,
                                    Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto& [rank, peer, number] = reading;
  const std::string& own_end = gone_[static_cast<std::size_t>(rank)];
  const std::string& peers_end = gone_[static_cast<std::size_t>(peer)];
  auto published = published_.end();
  const bool in_time = published_changed_.wait_until(lock, deadline, [&] {
    published = published_.find({reading.peer, reading.publication});
    return published != published_.end() || !own_end.empty() || !peers_end.empty();
  });
  const std::string what = "transport: rank " + std::to_string(rank) + " cannot read buffer " +
                           std::to_string(buffer.value) + " of rank " + std::to_string(peer) + ": ";
  if (!own_end.empty() || !peers_end.empty()) {
    throw TransportError(
        what + (own_end.empty() ? peers_end : own_end), own_end.empty() ? peer : -1, -1, false);
  }
  if (!in_time) {
    throw TransportError(what + "nothing was published before the deadline", peer, -1, false);
  }
  const auto exposed = published->second.find(buffer);
  if (exposed == published->second.end()) {
    throw TransportError(what + "it did not publish it", peer, -1, false);
  }
  return exposed->second;
}

void LoopbackState::withdraw(int rank) {
  const std::lock_guard lock(mutex_);
  std::erase_if(published_, [rank](const auto& entry) { return entry.first.first == rank; });
}

}  // namespace dynatrain
