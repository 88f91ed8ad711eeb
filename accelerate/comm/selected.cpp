#include "accelerate/comm/selected.h"

#include <string>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

void check(const char* verb, int64_t index, const World& world) {
  // A program for several processes may be tried on one: there it does everything.
  if (index >= 0 && (index < world.size || world.size == 1)) return;
  throw UsageError({.place = verb,
                    .what = "There is no such process",
                    .got = std::to_string(index),
                    .expected = world.size == 1 ? "0 or more" : "0 to " + std::to_string(world.size - 1),
                    .remedy = "Pass the index of a process that exists"});
}

}  // namespace

Runs runs_on_process(const char* verb, int64_t index, const World& world) {
  check(verb, index, world);
  return world.size == 1 || index == world.rank ? Runs::kHere : Runs::kElsewhere;
}

Runs runs_on_local_process(const char* verb, int64_t index, const World& world) {
  check(verb, index, world);
  return world.size == 1 || index == world.local_rank ? Runs::kHere : Runs::kElsewhere;
}

}  // namespace accelerate::internal
