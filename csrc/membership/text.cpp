#include "dynatrain/membership/text.hpp"

#include "dynatrain/base/error.hpp"

#include "membership/fields.hpp"
#include "membership/names.hpp"
#include "membership/text_words.hpp"
#include <type_traits>
#include <utility>
#include <variant>

namespace dynatrain::membership {
namespace {

template <class Value>
struct IsVariant : std::false_type {};
template <class... Alternatives>
struct IsVariant<std::variant<Alternatives...>> : std::true_type {};

template <class Value>
concept HasForm = requires { form(Of<Value>{}); };

// ---- writing -----------------------------------------------------------------------------------

template <class Value>
void write_value(std::string& line, const std::string& name, const Value& value, std::size_t limit);

template <class Message>
void write_fields(std::string& line, const std::string& prefix, const Message& message) {
  const auto write_one = [&](const auto& one) {
    write_value(line, prefix + std::string(one.name), message.*one.member, one.limit);
  };
  std::apply([&](const auto&... all) { (write_one(all), ...); }, form(Of<Message>{}).fields);
}

/// The name and the fields of a message, or of whatever a variant holds.
template <class Message>
void write_body(std::string& line, const Message& message) {
  if constexpr (IsVariant<Message>::value) {
    std::visit([&line](const auto& one) { write_body(line, one); }, message);
  } else {
    const std::string_view name = form(Of<Message>{}).name;
    if (!name.empty()) {
      line += ' ';
      line += name;
    }
    write_fields(line, {}, message);
  }
}

template <class Value>
void write_value(std::string& line,
                 const std::string& name,
                 const Value& value,
                 std::size_t limit) {
  if constexpr (IsVariant<Value>::value) {
    write_body(line, value);
  } else if constexpr (HasForm<Value>) {
    write_fields(line, name + ".", value);
  } else {
    line += ' ' + name + '=';
    append_word(line, value, limit);
  }
}

// ---- reading -----------------------------------------------------------------------------------

template <class Value>
Value read_value(Words& words, const std::string& name, std::size_t limit);

template <class Message>
Message read_fields(Words& words, const std::string& prefix) {
  Message message;
  const auto read_one = [&](const auto& one) {
    using Value = std::remove_cvref_t<decltype(message.*one.member)>;
    message.*one.member = read_value<Value>(words, prefix + std::string(one.name), one.limit);
  };
  std::apply([&](const auto&... all) { (read_one(all), ...); }, form(Of<Message>{}).fields);
  return message;
}

template <class Message>
bool has_name(std::string_view name);

template <class Variant, std::size_t... kPlaces>
bool is_any(std::string_view name, std::index_sequence<kPlaces...> /*places*/) {
  return (has_name<std::variant_alternative_t<kPlaces, Variant>>(name) || ...);
}

template <class Message>
bool has_name(std::string_view name) {
  if constexpr (IsVariant<Message>::value) {
    return is_any<Message>(name, std::make_index_sequence<std::variant_size_v<Message>>{});
  } else {
    return form(Of<Message>{}).name == name;
  }
}

template <class Message>
Message read_body(Words& words);

template <class Variant, std::size_t kPlace = 0>
Variant read_alternative(Words& words) {
  if constexpr (kPlace == std::variant_size_v<Variant>) {
    words.refuse("'" + std::string(words.peek()) + "' is not expected here");
  } else {
    using Alternative = std::variant_alternative_t<kPlace, Variant>;
    if (has_name<Alternative>(words.peek())) {
      return read_body<Alternative>(words);
    }
    return read_alternative<Variant, kPlace + 1>(words);
  }
}

template <class Message>
Message read_body(Words& words) {
  if constexpr (IsVariant<Message>::value) {
    return read_alternative<Message>(words);
  } else {
    if (!form(Of<Message>{}).name.empty()) {
      (void)words.take();
    }
    return read_fields<Message>(words, {});
  }
}

template <class Value>
Value read_value(Words& words, const std::string& name, std::size_t limit) {
  if constexpr (IsVariant<Value>::value) {
    return read_body<Value>(words);
  } else if constexpr (HasForm<Value>) {
    return read_fields<Value>(words, name + ".");
  } else {
    return read_word<Value>(words, words.take_field(name), limit);
  }
}

template <class Value>
constexpr std::size_t line_limit() {
  constexpr bool is_message =
      std::is_same_v<Value, FromWorker> || std::is_same_v<Value, FromCoordinator>;
  return is_message ? kMaxMessageBytes : kMaxLineBytes;
}

}  // namespace

std::string_view end_reason_name(EndReason reason) {
  return Names<EndReason>::kAll.at(static_cast<std::size_t>(reason));
}

template <class Value>
std::string encode(const Value& value) {
  std::string line = std::to_string(kTextVersion);
  write_body(line, value);
  if (line.size() > line_limit<Value>()) {
    throw LayoutError("membership: cannot write a line of " + std::to_string(line.size()) +
                      " bytes\n  the longest has " + std::to_string(line_limit<Value>()) +
                      "\n  nothing was sent or written");
  }
  return line;
}

template <class Value>
Value decode(std::string_view line) {
  Words words(line, line_limit<Value>());
  if (words.take() != std::to_string(kTextVersion)) {
    words.refuse("its first word is not " + std::to_string(kTextVersion) +
                 ": another version of the protocol");
  }
  Value value = read_body<Value>(words);
  words.expect_end();
  return value;
}

template std::string encode(const FromWorker&);
template std::string encode(const FromCoordinator&);
template std::string encode(const CoordinatorEvent&);
template std::string encode(const CoordinatorAction&);
template std::string encode(const WorkerEvent&);
template std::string encode(const WorkerAction&);
template std::string encode(const Record&);
template std::string encode(const Description&);
template FromWorker decode<FromWorker>(std::string_view);
template FromCoordinator decode<FromCoordinator>(std::string_view);
template CoordinatorEvent decode<CoordinatorEvent>(std::string_view);
template CoordinatorAction decode<CoordinatorAction>(std::string_view);
template WorkerEvent decode<WorkerEvent>(std::string_view);
template WorkerAction decode<WorkerAction>(std::string_view);
template Record decode<Record>(std::string_view);
template Description decode<Description>(std::string_view);

}  // namespace dynatrain::membership
