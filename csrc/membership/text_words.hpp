#pragma once

#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/world.hpp"

#include "membership/names.hpp"
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

/// Single values as words of a line. A word has one spelling: no leading zeros, no signs that say
/// nothing, upper-case escapes of just those bytes that need one.
namespace dynatrain::membership {

/// A line that is taken apart from its front.
class Words {
 public:
  /// Errors: LayoutError when the line is longer than `limit_bytes`, or holds a byte that no line
  /// holds.
  Words(std::string_view line, std::size_t limit_bytes);

  [[nodiscard]] std::string_view peek() const;
  [[nodiscard]] std::string_view take();
  /// The value of the next word, which has to be `name`=value.
  [[nodiscard]] std::string_view take_field(std::string_view name);
  void expect_end() const;
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  std::string_view line_;
  std::string_view rest_;
};

void append_number(std::string& line, std::int64_t value);
void append_id(std::string& line, MemberId value);
void append_text(std::string& line, std::string_view value, std::size_t limit_bytes);
/// Errors: LayoutError, for what append_... would refuse and for other spellings.
[[nodiscard]] std::int64_t read_number(const Words& words, std::string_view word);
[[nodiscard]] MemberId read_id(const Words& words, std::string_view word);
[[nodiscard]] std::string read_text(const Words& words, std::string_view word, std::size_t limit);
[[nodiscard]] std::vector<std::string_view> read_list(const Words& words,
                                                      std::string_view word,
                                                      std::size_t limit);
void check_list(std::size_t size, std::size_t limit);
[[noreturn]] void refuse_value(const std::string& why);

template <class Value>
struct IsList : std::false_type {};
template <class Item>
struct IsList<std::vector<Item>> : std::true_type {};

template <class Value>
void append_word(std::string& line, const Value& value, std::size_t limit) {
  if constexpr (IsList<Value>::value) {
    check_list(value.size(), limit);
    bool is_first = true;
    for (const auto& item : value) {
      line += is_first ? "" : ":";
      is_first = false;
      append_word(line, item, limit);
    }
  } else if constexpr (std::is_same_v<Value, bool>) {
    line += value ? '1' : '0';
  } else if constexpr (std::is_enum_v<Value>) {
    const auto place = static_cast<std::size_t>(value);
    if (place >= Names<Value>::kAll.size()) {
      refuse_value("an enumerator is out of range");
    }
    line += Names<Value>::kAll[place];
  } else if constexpr (std::is_same_v<Value, MemberId>) {
    append_id(line, value);
  } else if constexpr (std::is_same_v<Value, std::string>) {
    append_text(line, value, limit);
  } else {
    append_number(line, value);
  }
}

template <class Enum>
Enum read_enum(const Words& words, std::string_view word) {
  for (std::size_t place = 0; place < Names<Enum>::kAll.size(); ++place) {
    if (Names<Enum>::kAll[place] == word) {
      return static_cast<Enum>(place);
    }
  }
  words.refuse("'" + std::string(word.substr(0, 40)) +
               "' is none of the values that may stand here");
}

template <class Value>
Value read_word(const Words& words, std::string_view word, std::size_t limit) {
  if constexpr (IsList<Value>::value) {
    Value list;
    for (const std::string_view item : read_list(words, word, limit)) {
      list.push_back(read_word<typename Value::value_type>(words, item, limit));
    }
    return list;
  } else if constexpr (std::is_same_v<Value, bool>) {
    if (word != "0" && word != "1") {
      words.refuse("a flag is 0 or 1");
    }
    return word == "1";
  } else if constexpr (std::is_enum_v<Value>) {
    return read_enum<Value>(words, word);
  } else if constexpr (std::is_same_v<Value, MemberId>) {
    return read_id(words, word);
  } else if constexpr (std::is_same_v<Value, std::string>) {
    return read_text(words, word, limit);
  } else if constexpr (std::is_same_v<Value, int>) {
    const std::int64_t number = read_number(words, word);
    if (number > static_cast<std::int64_t>(kMaxWorldMembers)) {
      words.refuse("a rank is too large");
    }
    return static_cast<int>(number);
  } else {
    return read_number(words, word);
  }
}

}  // namespace dynatrain::membership
