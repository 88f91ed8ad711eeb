#include "accelerate/optim/sync_schedule.h"

#include <string>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate {

SyncSchedule::SyncSchedule(Rule rule, std::shared_ptr<const ActiveLoaders> loaders)
    : rule_(rule), loaders_(std::move(loaders)) {}

void SyncSchedule::set_num_steps(int64_t num_steps) {
  require_open("set_gradient_accumulation_steps");
  if (num_steps < 1) {
    throw UsageError({.place = "set_gradient_accumulation_steps",
                      .what = "The number of accumulation steps is not positive",
                      .got = std::to_string(num_steps),
                      .expected = "1 or more",
                      .remedy = "Pass 1 to update after every batch"});
  }
  if (open_) {
    throw UsageError({.place = "set_gradient_accumulation_steps",
                      .what = "A micro-step is in progress",
                      .got = "a call while the guard of accumulate() is alive",
                      .expected = "it between two batches",
                      .remedy = "Call it outside the loop body"});
  }
  rule_.num_steps = num_steps;
}

void SyncSchedule::enter_window() {
  require_open("accumulate");
  if (open_) {
    throw UsageError(
        {.place = "accumulate",
         .what = "An accumulation window is already open",
         .got = "a second accumulate() before the first guard ended",
         .expected = "one window at a time",
         .remedy = "Pass all models to one call: `auto window = accelerator.accumulate(generator, critic);`"});
  }
  if (gathered_ == 0) divisor_ = rule_.num_steps;
  ++gathered_;
  correction_ = 1;
  sync_gradients_ = next_synchronizes();
  micro_step_ = rule_.sync_with_dataloader && loaders_->end_of_dataloader() ? 0 : micro_step_ + 1;
  if (sync_gradients_) {
    correction_ = static_cast<double>(divisor_) / static_cast<double>(gathered_);
    divisor_ = std::exchange(gathered_, 0);
  }
  open_ = true;
  ++window_;
}

bool SyncSchedule::next_synchronizes() const {
  if (rule_.sync_with_dataloader && loaders_->end_of_dataloader()) return true;
  return (micro_step_ + 1) % rule_.num_steps == 0;
}

void SyncSchedule::require_window(const char* verb) const {
  if (open_ || rule_.num_steps == 1) return;
  throw UsageError({.place = verb,
                    .what = "Gradients accumulate over several micro-steps and no accumulation window is open",
                    .got = "gradient_accumulation_steps = " + std::to_string(rule_.num_steps) + " without a guard",
                    .expected = "a guard that lives until the end of the loop body",
                    .remedy = "Put `auto window = accelerator.accumulate(model);` at the top of the loop body"});
}

void SyncSchedule::require_open(const char* verb) const {
  if (!closed_) return;
  if (why_ == End::kReleased) {
    throw UsageError({.place = verb,
                      .what = "What this belongs to was let go by free_memory()",
                      .got = "a training verb with an object that was prepared before",
                      .expected = "objects that were prepared since",
                      .remedy = "Prepare the model, optimizer or scheduler again"});
  }
  throw UsageError(
      {.place = verb,
       .what = "Training has ended",
       .got = "a training verb after end_training() or after the Accelerator was destroyed",
       .expected = "it before",
       .remedy = "Calling the model for inference still works; to train again make a new Accelerator and prepare "
                 "again"});
}

}  // namespace accelerate
