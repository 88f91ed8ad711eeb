#pragma once

#include <cstdint>

#include "accelerate/comm/world.h"

namespace accelerate {

/// One process's part of a sequence that all share out in order: elements [begin, end), and the length that the longest
/// part has, to which parts may be filled up.
struct Share {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t longest = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Share&) const = default;
};

/// This process's share of `length` elements: consecutive, every element once, in the order of ranks; the first
/// `length % size` processes get one more. Source: `PartialState.split_between_processes`.
Share share_of_process(int64_t length, const World& world);

}  // namespace accelerate
