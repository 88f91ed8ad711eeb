#pragma once

#include <ATen/core/stack.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "accelerate/step/capture_device.h"
#include "accelerate/step/tape/random.h"
#include "accelerate/step/tape/recording.h"
#include "accelerate/step/tape/step_node.h"

namespace accelerate::internal {

/// What a tape asks of its Accelerator.
class TapeHost {
 public:
  /// Runs autograd from a loss that is scaled and divided already.
  virtual void run(const at::Tensor& root, const PassOptions& options) = 0;
  /// The device is going to repeat such a pass: notes on the host what `run` would have noted.
  virtual void repeated(const PassOptions& options) = 0;
  /// Kept as long as work is captured.
  virtual std::shared_ptr<void> capturing() = 0;
  virtual void launch(CapturedWork& work) = 0;
  /// Whether something that was captured, and that what is captured next runs beside, writes `tensor`'s memory.
  virtual bool arrives_yet(const at::Tensor& tensor) const = 0;
  /// What is captured from now on comes after all of that.
  virtual void await_arrivals() = 0;

 protected:
  ~TapeHost() = default;
};

class TapePool;

inline constexpr const char* kUnknownWork = "work was given to the device past LibTorch's operators";
inline constexpr const char* kInputIsWritten = "an input shares memory with what the step writes";

/// One kind of step, captured in the course of a step and repeated by later ones. The later step's operators come one
/// after the other, are compared with what was captured, and are left out; their results are tensors that have no
/// numbers yet. Nothing is launched before all of them have matched, up to the end or to where the host reads: so a
/// step that does something else is caught up with by running what has matched so far, from its own tensors.
class Tape {
 public:
  /// Two recordings without a difference, the second one just made. The device and what runs autograd are borrowed.
  Tape(const Recording& first, Recording second, c10::Device device, CaptureDevice& capture, TapePool& pool,
       TapeHost& host);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Why steps like these two cannot be captured, for now or for good. Source: the spike's list of what went wrong.
  struct Refusal {
    std::string reason;  ///< empty: they can be
    bool for_good = false;
  };
  static Refusal refusal(const Recording& first, const Recording& second, c10::DeviceType device);

  bool captured() const { return captured_; }

  // One step: `begin`, then what happens in it, then `end`.

  void begin();
  void on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack);
  void on_backward(const at::Tensor& root, const PassOptions& pass);
  void on_read(std::string_view name);
  /// Results that are held now keep their memory: called where an optimizer has stepped, before gradients are dropped.
  void keep_results();
  void end();
  /// Does `work` now, which is no part of the step.
  void do_apart(const std::function<void()>& work);
  /// Results that the user still holds get memory of their own, but for those that the step of `reader` takes.
  void move_out(const Tape* reader = nullptr);
  /// The capture of this step cannot go on.
  bool is_broken() const { return open_ && capture_.is_broken(); }
  /// The step is left in its middle: what was matched runs now.
  void leave(const std::string& reason) { catch_up(reason); }

  enum class State : uint8_t {
    kIdle,
    kCapturing,
    kReplaying,
    kDone,    ///< all of it is captured or launched: what still comes runs as usual
    kPassed,  ///< what came did not match: the rest of the step runs as usual
  };
  State state() const { return state_; }
  /// Of the last step: why it ran as usual; empty if it was captured or replayed.
  const std::string& fallback() const { return fallback_; }
  /// After a step that fell back because a tensor had moved: it is an input from now on, and the next step is captured
  /// anew. False: that was not the reason, or it cannot be one.
  bool follow_moved();
  /// Why it will never be captured; empty: it may be.
  const std::string& refusal() const { return refusal_; }

 private:
  struct Outside {
    TensorObject pattern;  ///< its form, without numbers
    at::Tensor parameter;  ///< of one that requires a gradient: the same in every step
    c10::Device device;
    const void* data = nullptr;
    bool written = false;
    bool stays_in_place = false;    ///< a copy of it could not stand in for it
    bool is_input = false;          ///< another one in every step; written ones are copied back
    at::Tensor buffer;              ///< of an input: what the graph reads
    at::Tensor current;             ///< in this step
    const void* address = nullptr;  ///< of `current`
  };
  /// Memory that keeps its numbers after the launch.
  struct Memory {
    c10::Storage captured;                                             ///< until the first replay
    c10::Storage shown;                                                ///< to this step
    WeakStorage shown_before{c10::intrusive_ptr<c10::StorageImpl>()};  ///< to the step that was launched last
    void* data = nullptr;
    size_t bytes = 0;
  };
  struct Value {
    bool has_unspent_graph = false;  ///< no backward pass of the step runs through it
    bool requires_grad = false;
    uint32_t output = 0;   ///< of the step's node
    TensorObject pattern;  ///< its form, without numbers
    /// While capturing: where its numbers are, and the same kept alive once it was held where the device had come so
    /// far.
    WeakStorage storage{c10::intrusive_ptr<c10::StorageImpl>()};
    c10::Storage kept;
    int32_t memory = -1;                      ///< of `memories_`; none: its numbers are gone after the launch
    int32_t outside = -1;                     ///< shares the memory of that outside tensor
    int64_t offset = 0;                       ///< in that tensor's elements
    WeakTensorObject object{TensorObject()};  ///< in this step
    const c10::TensorImpl* current = nullptr;
    uint64_t step = 0;
  };
  struct Segment {
    std::shared_ptr<CapturedWork> work;
    size_t begin = 0, end = 0;  ///< entries
  };
  /// What memory shown to the user needs, also when the tape is gone.
  struct Owned;

  // match.cpp
  bool matches(const Ref& ref, c10::TensorImpl* tensor);
  bool matches(const Argument& argument, const c10::IValue& value);
  bool matches_outside(Outside& outside, c10::TensorImpl* tensor);
  bool matches_number(const at::Tensor& recorded, const c10::TensorImpl* tensor) const;
  std::string mismatch_of(const Entry& entry, const c10::OperatorHandle& op, const torch::jit::Stack& stack);
  std::string mismatch_of(const Entry& entry, const at::Tensor& root, const PassOptions& pass);

  // replay.cpp
  at::Tensor given(const Ref& ref);
  at::Tensor remade(Value& value);
  void view_outside(const Value& value, c10::TensorImpl& object) const;
  void replay(const Entry& entry, torch::jit::Stack& stack);
  const c10::Storage& shown(Memory& memory);
  bool takes(const c10::Storage& storage) const;
  bool launch();
  const Entry* held_too_long() const;
  bool keeps_unspent_graph() const;
  bool input_is_written() const;
  void fill(const Outside& input);
  void copy_late();
  void copy_back() const;

  // capture.cpp
  void capture(const Entry& entry, const c10::OperatorHandle& op, torch::jit::Stack& stack);
  void open_segment();
  void abandon_segment() noexcept;
  void await_arrivals(const torch::jit::Stack& stack, size_t arguments);
  bool close_segment();
  void bind(const Argument& result, const c10::IValue& value);
  void bind(const Ref& ref, const at::Tensor& tensor);
  void finish_capture();
  void find_memories();

  // catch_up.cpp
  void catch_up(const std::string& reason);
  void run_again(size_t begin, size_t end, std::vector<at::Tensor>& real);
  at::Tensor real_of(const Ref& ref, std::vector<at::Tensor>& real);
  void hand_over(const std::vector<at::Tensor>& real);

  bool answers(const Entry& entry, const c10::OperatorHandle& op, torch::jit::Stack& stack);
  void complete();
  void read(const std::function<void()>& read);
  void feed(const Entry& entry, const c10::OperatorHandle& op, torch::jit::Stack& stack);
  bool unknown_work();
  bool seed_was_set() const;
  void launch_partly(const std::string& reason);
  void pass_by(std::string reason);
  void refuse(std::string reason) {
    if (refusal_.empty()) refusal_ = std::move(reason);
  }

  c10::DeviceType device_;
  CaptureDevice& capture_;
  TapePool& pool_;
  TapeHost& host_;
  std::vector<Entry> entries_;
  std::vector<at::Tensor> numbers_;
  std::vector<Outside> outside_;
  std::vector<Value> values_;
  std::vector<Memory> memories_;
  std::vector<MemoryCopy> late_copies_;                                    ///< of inputs, made with the launch
  std::unordered_map<const c10::StorageImpl*, int32_t> outside_storages_;  ///< while capturing
  std::vector<Segment> segments_;
  std::shared_ptr<Owned> owned_;
  std::shared_ptr<StepNode> node_;
  c10::Storage no_numbers_;

  uint64_t settings_ = 0;
  RandomPlace random_;  ///< where the step has begun, or was launched last
  bool captured_ = false;
  State state_ = State::kIdle;
  size_t position_ = 0;         ///< the next entry
  size_t launched_ = 0;         ///< entries before this one have run
  std::shared_ptr<void> open_;  ///< while capturing a segment: the token of the host
  bool room_made_ = false;      ///< this step
  uint64_t step_ = 0;
  std::string fallback_, refusal_;
  Outside* moved_ = nullptr;  ///< in this step, what was expected elsewhere
};

}  // namespace accelerate::internal
