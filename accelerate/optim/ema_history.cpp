#include "accelerate/optim/ema_history.h"

namespace accelerate::internal {

/// In their order: an update's number depends on those before.
void EmaHistory::follow(Waiting waiting) {
  while (!open_.empty()) {
    EmaEntry& first = *open_.front();
    if (waiting == Waiting::kForbidden && !first.result->known()) return;
    first.number = first.result->applied() ? ++count_ : 0;
    first.result.reset();
    open_.erase(open_.begin());
  }
}

std::shared_ptr<EmaEntry> EmaHistory::add(const StepResult& result) {
  open_.push_back(std::make_shared<EmaEntry>(EmaEntry{.result = result}));
  std::shared_ptr<EmaEntry> entry = open_.back();
  follow(Waiting::kForbidden);
  return entry;
}

bool EmaHistory::knows(const EmaEntry& entry) {
  follow(Waiting::kForbidden);
  return entry.number.has_value();
}

int64_t EmaHistory::number_of(const EmaEntry& entry) {
  if (!entry.number) follow(Waiting::kAllowed);
  return *entry.number;
}

double EmaHistory::decay_of(const EmaEntry& entry) {
  const int64_t number = number_of(entry);
  return number == 0 ? 0 : decay_.of(number);
}

int64_t EmaHistory::count() {
  follow(Waiting::kAllowed);
  return count_;
}

void EmaHistory::set_count(int64_t count) {
  follow(Waiting::kAllowed);
  count_ = count;
}

}  // namespace accelerate::internal
