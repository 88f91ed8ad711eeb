#include "accelerate/comm/process_order.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"

namespace accelerate {

ProcessOrder::ProcessOrder(const char* verb, Turn turn, Group group, Log log)
    : verb_(verb),
      group_(std::move(group)),
      log_(std::move(log)),
      exceptions_(std::uncaught_exceptions()),
      pending_(turn == Turn::kFirst && group_.size() > 1) {
  if (turn == Turn::kAfterwards && group_.size() > 1) meet(0);
}

ProcessOrder::ProcessOrder(ProcessOrder&& other) noexcept
    : verb_(other.verb_),
      group_(std::move(other.group_)),
      log_(std::move(other.log_)),
      exceptions_(other.exceptions_),
      pending_(std::exchange(other.pending_, false)) {}

ProcessOrder::~ProcessOrder() {
  if (!std::exchange(pending_, false)) return;
  try {
    meet(std::uncaught_exceptions() > exceptions_ ? 1 : 0);
  } catch (const std::exception& error) {
    log_.warning(error.what());
  }
}

void ProcessOrder::finish() {
  if (std::exchange(pending_, false)) meet(0);
}

void ProcessOrder::meet(int64_t failures) {
  const std::vector<int64_t> all = internal::all_gather_numbers(group_, failures);
  if (failures > 0) return;  // this process's own exception is on its way
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank] == 0) continue;
    throw CommError({.place = verb_,
                     .what = "A process that went first has failed",
                     .got = "an exception inside " + std::string(verb_) + "() on process " + std::to_string(rank),
                     .expected = "it to leave without one",
                     .remedy = "Look at that process's error"});
  }
}

}  // namespace accelerate
