#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate {

/// Named entries of one plug-in folder plus those that a host program handed in; a value, never a global.
/// `Entry` has a member `std::string name`. A later entry of the same name is refused, not preferred.
template <class Entry>
class Registry {
 public:
  /// `kind` is the word for an entry in messages: "precision", "strategy".
  Registry(std::string kind, std::vector<Entry> entries) : kind_(std::move(kind)) {
    for (Entry& entry : entries) add(std::move(entry));
  }

  /// Throws ConfigError if the name is taken.
  void add(Entry entry) {
    if (find(entry.name) != nullptr) {
      throw ConfigError({.place = "extensions",
                         .what = "Two entries have the same name",
                         .got = kind_ + " \"" + entry.name + "\" twice",
                         .expected = "names other than " + names(),
                         .remedy = "Rename the one that was handed in"});
    }
    entries_.push_back(std::move(entry));
  }

  /// Null when there is none.
  const Entry* find(std::string_view name) const {
    for (const Entry& entry : entries_) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }

  const std::vector<Entry>& all() const { return entries_; }

  /// All names, comma-separated, for messages.
  std::string names() const {
    std::string out;
    for (const Entry& entry : entries_) out += (out.empty() ? "\"" : ", \"") + entry.name + "\"";
    return out;
  }

 private:
  std::string kind_;
  std::vector<Entry> entries_;
};

}  // namespace accelerate
