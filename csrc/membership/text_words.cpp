#include "membership/text_words.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/membership/text.hpp"

#include <algorithm>
#include <charconv>
#include <memory>

namespace dynatrain::membership {
namespace {

constexpr std::string_view kHexDigits = "0123456789ABCDEF";
constexpr std::size_t kQuotedBytes = 120;
constexpr std::size_t kEscapeBytes = 3;

/// Bytes that stand for themselves in a text.
bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-._,=/+").find(c) != std::string_view::npos;
}

int hex_value(char digit) {
  const std::size_t place = kHexDigits.find(digit);
  return place == std::string_view::npos ? -1 : static_cast<int>(place);
}

/// The byte of the escape that `word` begins with.
char read_escape(const Words& words, std::string_view word) {
  const int high = word.size() >= kEscapeBytes ? hex_value(word[1]) : -1;
  const int low = word.size() >= kEscapeBytes ? hex_value(word[2]) : -1;
  if (high < 0 || low < 0) {
    words.refuse("an escape is % and two digits, 0 to F");
  }
  return static_cast<char>(static_cast<unsigned char>(high * 16 + low));
}

/// Reads all of `word` in its only spelling.
template <class Number>
bool reads_as(std::string_view word, Number& number) {
  const char* const end = std::to_address(word.end());
  const auto [stopped, status] = std::from_chars(std::to_address(word.begin()), end, number);
  return status == std::errc{} && stopped == end && std::to_string(number) == word;
}

}  // namespace

Words::Words(std::string_view line, std::size_t limit_bytes) : line_(line), rest_(line) {
  if (line.size() > limit_bytes) {
    refuse("it has " + std::to_string(line.size()) + " bytes, the longest line has " +
           std::to_string(limit_bytes));
  }
  const bool is_clean =
      std::ranges::all_of(line, [](char c) { return c > ' ' ? c < '\x7f' : c == ' '; });
  if (!is_clean) {
    refuse("it holds a byte that is neither a printable character nor a space");
  }
}

std::string_view Words::peek() const {
  return rest_.substr(0, rest_.find(' '));
}

std::string_view Words::take() {
  if (rest_.empty()) {
    refuse("it ends too early");
  }
  const std::string_view word = peek();
  rest_.remove_prefix(word.size());
  if (!rest_.empty()) {
    rest_.remove_prefix(1);
    if (rest_.empty() || rest_.front() == ' ') {
      refuse("two spaces, or one at its end");
    }
  }
  return word;
}

std::string_view Words::take_field(std::string_view name) {
  if (rest_.empty()) {
    refuse("it ends where " + std::string(name) + "= is expected");
  }
  const std::string_view word = take();
  if (word.size() <= name.size() || word.substr(0, name.size()) != name ||
      word[name.size()] != '=') {
    refuse("'" + std::string(word.substr(0, 40)) + "' stands where " + std::string(name) +
           "= is expected");
  }
  return word.substr(name.size() + 1);
}

void Words::expect_end() const {
  if (!rest_.empty()) {
    refuse("'" + std::string(peek().substr(0, 40)) + "' stands behind its end");
  }
}

void Words::refuse(const std::string& why) const {
  std::string quoted;
  for (const char c : line_.substr(0, kQuotedBytes)) {
    quoted += c >= ' ' && c < '\x7f' ? c : '?';
  }
  throw LayoutError("membership: cannot read the line '" + quoted +
                    (line_.size() > kQuotedBytes ? "...'" : "'") + "\n  " + why +
                    "\n  it was not taken, nothing changed");
}

void refuse_value(const std::string& why) {
  throw LayoutError("membership: cannot write a value as text\n  " + why +
                    "\n  nothing was sent or written");
}

void check_list(std::size_t size, std::size_t limit) {
  if (size > limit) {
    refuse_value("a list of " + std::to_string(size) + " entries, the longest has " +
                 std::to_string(limit));
  }
}

void append_number(std::string& line, std::int64_t value) {
  if (value < -1 || value > kMaxNumber) {
    refuse_value("the number " + std::to_string(value) + " is out of range");
  }
  line += std::to_string(value);
}

void append_id(std::string& line, MemberId value) {
  if (value.value == 0) {
    refuse_value("0 is the id of nobody");
  }
  line += std::to_string(value.value);
}

void append_text(std::string& line, std::string_view value, std::size_t limit_bytes) {
  if (value.size() > limit_bytes) {
    refuse_value("a text of " + std::to_string(value.size()) + " bytes, the longest has " +
                 std::to_string(limit_bytes));
  }
  for (const char c : value) {
    if (is_plain(c)) {
      line += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      line += '%';
      line += kHexDigits[byte >> 4U];
      line += kHexDigits[byte & 15U];
    }
  }
}

std::int64_t read_number(const Words& words, std::string_view word) {
  std::int64_t number = 0;
  if (!reads_as(word, number) || number < -1 || number > kMaxNumber) {
    words.refuse("'" + std::string(word.substr(0, 40)) + "' is not a whole number up to 2^53");
  }
  return number;
}

MemberId read_id(const Words& words, std::string_view word) {
  std::uint64_t number = 0;
  if (!reads_as(word, number) || number == 0) {
    words.refuse("'" + std::string(word.substr(0, 40)) + "' is not the id of a member");
  }
  return MemberId{number};
}

std::string read_text(const Words& words, std::string_view word, std::size_t limit) {
  std::string text;
  while (!word.empty()) {
    const bool is_escape = word.front() == '%';
    const char c = is_escape ? read_escape(words, word) : word.front();
    if (is_plain(c) == is_escape) {
      words.refuse("a byte of a text is written in another way");
    }
    text += c;
    if (text.size() > limit) {
      words.refuse("a text has more than " + std::to_string(limit) + " bytes");
    }
    word.remove_prefix(is_escape ? kEscapeBytes : 1);
  }
  return text;
}

std::vector<std::string_view> read_list(const Words& words,
                                        std::string_view word,
                                        std::size_t limit) {
  std::vector<std::string_view> items;
  while (!word.empty()) {
    const std::size_t end = word.find(':');
    items.push_back(word.substr(0, end));
    if (items.size() > limit) {
      words.refuse("a list has more than " + std::to_string(limit) + " entries");
    }
    if (end == word.size() - 1) {
      words.refuse("a list ends with ':'");
    }
    word = end == std::string_view::npos ? std::string_view{} : word.substr(end + 1);
  }
  return items;
}

}  // namespace dynatrain::membership
