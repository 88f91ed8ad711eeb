#include "accelerate/step/recorder.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

/// Times that steps may differ from one to the next before their kind is given up. Accumulated gradients settle once
/// the micro-step that makes them is captured itself, which takes a few windows.
constexpr int64_t kAttempts = 8;
/// Fallbacks in a row after which a kind is recorded anew.
constexpr int64_t kFallbacksInARow = 2;

}  // namespace

StepRecorder::StepRecorder(CudaGraph options, c10::Device device, std::unique_ptr<CaptureDevice> capture,
                           TapeHost& host, StepHooks hooks, Log log)
    : options_(options),
      device_(device),
      capture_(std::move(capture)),
      host_(host),
      hooks_(std::move(hooks)),
      log_(std::move(log)) {}

StepRecorder::~StepRecorder() = default;

std::string StepRecorder::name_of(const Slot& slot) const {
  const auto place = std::find_if(slots_.begin(), slots_.end(), [&](const auto& one) { return one.get() == &slot; });
  std::ostringstream name;
  name << "step kind " << place - slots_.begin() << (slot.kind.synchronizes ? "" : " (accumulating)");
  return name.str();
}

StepRecorder::Slot* StepRecorder::slot_of(const StepKind& kind) {
  for (const auto& slot : slots_) {
    if (slot->kind == kind) return slot.get();
  }
  if (static_cast<int64_t>(slots_.size()) >= options_.max_graphs) {
    if (!std::exchange(full_, true)) {
      log_.warning("cuda_graph: a further kind of step is not captured: there are " +
                   std::to_string(options_.max_graphs) +
                   " already. Give batches fewer different shapes (.drop_last), or raise CudaGraph{.max_graphs}");
      report_.not_captured.push_back("more kinds than .max_graphs = " + std::to_string(options_.max_graphs));
    }
    return nullptr;
  }
  slots_.push_back(std::make_unique<Slot>(Slot{.kind = kind}));
  return slots_.back().get();
}

void StepKind::add(const at::Tensor& tensor) {
  if (!tensor.defined()) return add(-1);
  add(static_cast<int64_t>(tensor.scalar_type()));
  add(tensor.dim());
  inputs.insert(inputs.end(), tensor.sizes().begin(), tensor.sizes().end());
}

void StepRecorder::open_explicitly(StepKind kind) {
  if (open_) {
    throw UsageError({.place = "step",
                      .what = "A step begins inside another one",
                      .got = "a step object called in the middle of a step",
                      .expected = "one step after the other",
                      .remedy = "Call it where no model has been called since the last optimizer.step()"});
  }
  open(std::move(kind));
  explicit_ = true;
}

void StepRecorder::open(StepKind kind) {
  if (open_) return;
  open_ = true;
  ++report_.steps;
  hooks_.before_step();
  kind.has_gradients = hooks_.has_gradients();
  kind.last_stepped = last_stepped_;
  if (disabled_ || report_.steps <= options_.warmup_steps) return;
  Slot* slot = slot_of(kind);
  if (slot == nullptr || !slot->refusal.empty()) return;
  if (const auto reason = capture_->refusal()) return refuse(*slot, *reason);
  slot_ = slot;
  helped_before_ = operators_of_helping_threads();
  try {
    observation_.emplace(*this);
    if (slot->tape) {
      on_tape_ = true;
      slot->tape->begin();
    } else {
      recording_ = std::make_unique<Recording>(device_.type());
    }
  } catch (...) {
    leave();
    throw;
  }
}

void StepRecorder::on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  if (recording_) return recording_->on_operator(op, stack);
  if (on_tape_) return slot_->tape->on_operator(op, stack);
  op.callBoxed(stack);
}

void StepRecorder::backward(const at::Tensor& root, const PassOptions& pass) {
  const Unobserved own;
  if (recording_) return recording_->on_backward(root, pass, [&] { host_.run(root, pass); });
  if (on_tape_) return slot_->tape->on_backward(root, pass);
  host_.run(root, pass);
}

void StepRecorder::before_read(std::string_view name) {
  if (recording_) return recording_->on_read(name);
  if (on_tape_) slot_->tape->on_read(name);
}

void StepRecorder::do_apart(const std::function<void()>& work) {
  const Unobserved own;
  on_tape_ ? slot_->tape->do_apart(work) : work();
}

void StepRecorder::stepped(const void* optimizer, bool in_window) {
  if (!open_) return;
  if (on_tape_) slot_->tape->keep_results();
  if (in_window || explicit_) return;
  last_stepped_ = optimizer;
  close();
}

void StepRecorder::window_left() {
  if (!explicit_) close();
}

void StepRecorder::close() {
  if (!std::exchange(open_, false)) return;
  explicit_ = false;
  observation_.reset();
  if (slot_ == nullptr) return;
  Slot& slot = *std::exchange(slot_, nullptr);
  if (!std::exchange(on_tape_, false)) {
    if (operators_of_helping_threads() != helped_before_) {
      recording_->refuse("autograd was not run by accelerator.backward(loss)");
    }
    return end_recording(slot);
  }
  slot.tape->end();
  end_tape(slot);
}

void StepRecorder::leave() {
  if (!std::exchange(open_, false)) return;
  explicit_ = false;
  observation_.reset();
  recording_.reset();
  Slot* slot = std::exchange(slot_, nullptr);
  if (!std::exchange(on_tape_, false)) return;
  Tape& tape = *slot->tape;
  const bool broken = tape.is_broken();
  const auto state = tape.state();
  if (state == Tape::State::kCapturing || state == Tape::State::kReplaying) tape.leave("the step threw an exception");
  tape.end();
  if (broken) {
    refuse(*slot,
           "while it was captured the host waited for the device past LibTorch's operators, as "
           "torch::cuda::synchronize() does, and CUDA refused that: wait after the step, behind the guard of "
           "accumulate()");
  }
}

void StepRecorder::forget() {
  close();
  slots_.clear();
  last_stepped_ = nullptr;
}

void StepRecorder::refuse(Slot& slot, std::string reason) {
  slot.first.reset();
  slot.tape.reset();
  log_.warning("cuda_graph: " + name_of(slot) + " is not captured and runs as usual: " + reason);
  report_.not_captured.push_back(reason);
  slot.refusal = std::move(reason);
}

void StepRecorder::retry(Slot& slot, std::string reason) {
  slot.fallbacks = 0;
  if (++slot.attempts > kAttempts) refuse(slot, std::move(reason));
}

void StepRecorder::end_recording(Slot& slot) {
  const std::unique_ptr<Recording> second = std::move(recording_);
  if (!second->refusal().empty()) return refuse(slot, second->refusal());
  if (second->entries().empty()) return;
  if (!slot.first) {
    slot.first = std::make_unique<Recording>(std::move(*second));
    return;
  }
  const Tape::Refusal refusal = Tape::refusal(*slot.first, *second, device_.type());
  if (refusal.reason.empty()) {
    slot.fresh = true;
    slot.tape = std::make_unique<Tape>(*slot.first, std::move(*second), device_, *capture_, pool_, host_);
    slot.first.reset();
  } else if (refusal.for_good) {
    refuse(slot, refusal.reason);
  } else {
    slot.first = std::make_unique<Recording>(std::move(*second));
    retry(slot, refusal.reason);
  }
}

void StepRecorder::end_tape(Slot& slot) {
  Tape& tape = *slot.tape;
  if (tape.fallback().empty()) {
    slot.fallbacks = 0;
    if (std::exchange(slot.fresh, false)) {
      ++report_.captured;
      log_.info("cuda_graph: " + name_of(slot) + " is captured");
    } else {
      ++report_.replayed;
      slot.attempts = 0;
    }
    return;
  }
  ++report_.fallbacks;
  report_.last_fallback = tape.fallback();
  log_.info("cuda_graph: " + name_of(slot) + " ran as usual: " + tape.fallback());
  if (tape.refusal() == kUnknownWork) {
    // Its results are where other graphs may write, and not all of them are known.
    for (const auto& any : slots_) {
      if (any->refusal.empty()) refuse(*any, kUnknownWork);
    }
    disabled_ = true;
    return;
  }
  if (!tape.refusal().empty()) return refuse(slot, tape.refusal());
  if (tape.captured() && tape.follow_moved()) {
    slot.fresh = true;
    return;
  }
  if (++slot.fallbacks < kFallbacksInARow) return;
  std::string reason = tape.fallback();
  slot.tape.reset();
  retry(slot, std::move(reason));
}

}  // namespace accelerate::internal
