#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "accelerate/core/log.h"
#include "accelerate/step/capture_device.h"
#include "accelerate/step/cuda_graph.h"
#include "accelerate/step/tape/pool.h"
#include "accelerate/step/tape/tape.h"
#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {

/// What is known of a step before it begins; steps of one kind are expected to do the same.
struct StepKind {
  const void* opened_by = nullptr;     ///< the model that is called first, or the step object
  const void* last_stepped = nullptr;  ///< the optimizer that ended the step before, outside of windows
  bool synchronizes = true;            ///< the micro-step ends an accumulation window
  bool has_gradients = false;          ///< some were there
  std::vector<int64_t> inputs = {};    ///< dtypes and sizes, and what else there is
  bool operator==(const StepKind&) const = default;
  void add(int64_t number) { inputs.push_back(number); }
  void add(const at::Tensor& tensor);
};

/// What a recorder asks of its Accelerator.
struct StepHooks {
  std::function<void()> before_step;
  std::function<bool()> has_gradients;  ///< whether some are there
};

/// Captures the steps of one Accelerator: which step is which, when it is written down, captured, replayed, given up.
class StepRecorder final : public OperatorObserver {
 public:
  StepRecorder(CudaGraph options, c10::Device device, std::unique_ptr<CaptureDevice> capture, TapeHost& host,
               StepHooks hooks, Log log);
  ~StepRecorder();

  /// A step begins, unless one is open. `opened_by`, `synchronizes` and `inputs` are the caller's.
  void open(StepKind kind);
  /// The same for a step object, whose step ends where it says, and nowhere else.
  void open_explicitly(StepKind kind);
  bool is_open() const { return open_; }
  /// Runs autograd, or has the device repeat it.
  void backward(const at::Tensor& root, const PassOptions& pass);
  /// The host is going to do something that waits for the device, or that the device does past LibTorch's operators.
  void before_read(std::string_view name);
  /// Does `work` now, which is no part of the step.
  void do_apart(const std::function<void()>& work);
  /// An optimizer has stepped; its gradients are still there. Ends a step that no window and no step object holds.
  void stepped(const void* optimizer, bool in_window);
  /// An accumulation window has ended, and with it the step, unless a step object holds it.
  void window_left();
  void close();
  /// It was left by an exception.
  void leave();
  /// Ends the open step. What was captured is let go: what it was of does not come again.
  void forget();
  CudaGraphReport report() const { return report_; }

 private:
  /// One kind of step.
  struct Slot {
    StepKind kind;
    std::unique_ptr<Recording> first;
    std::unique_ptr<Tape> tape;
    std::string refusal;    ///< never captured, and why
    bool fresh = true;      ///< its tape has captured nothing yet
    int64_t attempts = 0;   ///< since a replay
    int64_t fallbacks = 0;  ///< in a row
  };

  void on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack) override;
  Slot* slot_of(const StepKind& kind);
  void end_recording(Slot& slot);
  void end_tape(Slot& slot);
  void refuse(Slot& slot, std::string reason);
  void retry(Slot& slot, std::string reason);
  std::string name_of(const Slot& slot) const;

  CudaGraph options_;
  c10::Device device_;
  std::unique_ptr<CaptureDevice> capture_;
  TapeHost& host_;
  StepHooks hooks_;
  Log log_;
  TapePool pool_;
  std::vector<std::unique_ptr<Slot>> slots_;
  CudaGraphReport report_;

  bool open_ = false;
  bool explicit_ = false;  ///< a step object holds the open step
  const void* last_stepped_ = nullptr;
  Slot* slot_ = nullptr;  ///< of the open step; null: it runs as usual
  std::unique_ptr<Recording> recording_;
  bool on_tape_ = false;
  std::optional<Observation> observation_;
  uint64_t helped_before_ = 0;
  bool full_ = false;      ///< there are as many kinds as there may be
  bool disabled_ = false;  ///< nothing is captured any more
};

}  // namespace accelerate::internal
