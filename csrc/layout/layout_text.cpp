#include "dynatrain/base/error.hpp"
#include "dynatrain/layout/layout.hpp"

#include "layout/axes.hpp"
#include <algorithm>
#include <charconv>
#include <memory>
#include <utility>

namespace dynatrain {
namespace {

/// Axes in the order in which they are printed.
constexpr std::array kPrinted{Axis::kDpShard,
                              Axis::kDpReplicate,
                              Axis::kCp,
                              Axis::kTp,
                              Axis::kPp,
                              Axis::kEp,
                              Axis::kEtp,
                              Axis::kVpp};

[[noreturn]] void refuse_word(std::string_view word, const std::string& why) {
  throw LayoutError("layout: cannot read '" + std::string(word) + "'\n  " + why +
                    "\n  no layout was made, nothing changed\n  write for example dp=2,tp=2 or "
                    "pp=2,vpp=2,stages=3:2:2:1");
}

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) {
    return {};
  }
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> words;
  while (true) {
    const std::size_t end = text.find(separator);
    words.push_back(trim(text.substr(0, end)));
    if (end == std::string_view::npos) {
      return words;
    }
    text.remove_prefix(end + 1);
  }
}

int parse_number(std::string_view word, std::string_view text) {
  int value = 0;
  const char* const end = std::to_address(text.end());
  const auto [stopped, status] = std::from_chars(std::to_address(text.begin()), end, value);
  if (status != std::errc{} || stopped != end) {
    std::string why = "'" + std::string(text) + "' is not a whole number below 2^31";
    if (text.find('=') != std::string_view::npos) {
      why += ": axes are separated by commas";
    }
    refuse_word(word, why);
  }
  return value;
}

std::vector<int> parse_stages(std::string_view word, std::string_view text) {
  std::vector<int> stages;
  for (const std::string_view number : split(text, ':')) {
    stages.push_back(parse_number(word, number));
  }
  return stages;
}

std::array<Axis, kNumMeshAxes> parse_order(std::string_view word, std::string_view text) {
  const std::vector<std::string_view> names = split(text, ':');
  std::array<Axis, kNumMeshAxes> order{};
  if (names.size() != order.size()) {
    refuse_word(word, "order names all of pp, dp_replicate, dp_shard, cp, tp");
  }
  std::ranges::transform(names, order.begin(), axis_from_name);
  return order;
}

template <class Range, class ToText>
std::string join(const Range& range, const ToText& to_text) {
  std::string text;
  for (const auto& item : range) {
    text += text.empty() ? "" : ":";
    text += to_text(item);
  }
  return text;
}

}  // namespace

Layout Layout::parse(std::string_view text) {
  LayoutSpec spec;
  std::vector<std::string> seen;
  for (const std::string_view word : split(text, ',')) {
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) {
      refuse_word(word, "every word is an axis, '=' and a size");
    }
    const std::string_view name = trim(word.substr(0, equals));
    const std::string_view value = trim(word.substr(equals + 1));
    std::string key(name);
    if (name == "stages") {
      spec.stages = parse_stages(word, value);
    } else if (name == "order") {
      spec.order = parse_order(word, value);
    } else {
      const Axis axis = axis_from_name(name);
      spec.*axis_field(axis).size = parse_number(word, value);
      key = axis_name(axis);
    }
    if (std::ranges::find(seen, key) != seen.end()) {
      refuse_word(word, key + " is given twice");
    }
    seen.push_back(std::move(key));
  }
  return Layout(std::move(spec));
}

std::string Layout::to_string() const {
  std::string text;
  const auto append = [&text](std::string_view name, const std::string& value) {
    text += (text.empty() ? "" : ",") + std::string(name) + "=" + value;
  };
  for (const Axis axis : kPrinted) {
    if (size(axis) > 1) {
      append(axis == Axis::kDpShard ? "dp" : axis_name(axis), std::to_string(size(axis)));
    }
  }
  if (!spec_.stages.empty()) {
    append("stages", join(spec_.stages, [](int layers) { return std::to_string(layers); }));
  }
  if (spec_.order != LayoutSpec{}.order) {
    append("order", join(spec_.order, axis_name));
  }
  return text.empty() ? "dp=1" : text;
}

}  // namespace dynatrain
