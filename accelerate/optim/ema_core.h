#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "accelerate/optim/ema.h"
#include "accelerate/optim/ema_history.h"
#include "accelerate/optim/kernels/operators.h"
#include "accelerate/optim/update.h"

namespace accelerate::internal {

class OptimizerCore;

/// The averages of one Ema.
class EmaCore : public std::enable_shared_from_this<EmaCore> {
 public:
  EmaCore(const std::vector<ParameterTable>& tables, EmaOptions options, std::shared_ptr<MasterWeights> masters);

  /// Where updates are counted from the next one on, and what they keep is computed.
  void count_with(Counters counters) { counters_ = counters; }

  EmaUpdate update(const StepResult& result);

  /// From the next step on the averages follow `optimizer` by themselves.
  void follow(const std::shared_ptr<OptimizerCore>& optimizer);
  /// Throws UsageError from `place` while the averages are applied.
  void require_weights(const char* place) const;
  /// Of a step of that optimizer, in this order. The first throws before anything has changed.
  void begin_step();
  /// The average that a kernel writes beside `updated`, which is the parameter or its master: whoever asks has it
  /// written. Undefined: there is none, or not for a kernel.
  at::Tensor average_beside(const at::Tensor& parameter, const at::Tensor& updated);
  /// How some of those, of one device, follow in one call. Undefined ones become what stands for none there.
  kernels::Following following(std::vector<at::Tensor>& averages);
  /// What no kernel has written follows.
  void end_step(const StepResult& result);
  void abandon_step() noexcept;

  /// The mark is set before a guard is made.
  void begin();
  /// Everything that may fail comes before the first weight changes. The guard exists already.
  void apply();
  void restore() noexcept;
  bool applied() const { return applied_; }

  int64_t steps();
  double decay();
  int64_t bytes_on(c10::Device device) const;

  void save(StateWriter& writer);
  void load(StateReader& reader);

 private:
  struct Entry {
    ShardedTensor average;
    at::Tensor weight;        ///< the user's own
    at::Tensor kept;          ///< what the weight was, while the average is in its place
    bool is_written = false;  ///< by a kernel of the step that has begun
  };
  /// Of one device.
  struct Count {
    at::Tensor updates;        ///< int64
    at::Tensor kept;           ///< float64: what the last update kept
    at::Tensor none;           ///< without elements
    bool has_counted = false;  ///< in the step that has begun
  };
  /// What one call of an operator takes.
  struct Lists {
    std::vector<at::Tensor> averages = {}, weights = {};
  };

  void follow_model(const char* place);
  void follow_load();
  at::Tensor followed(const at::Tensor& weight) const;
  std::optional<at::Tensor> verdict_of(const StepResult& result) const;
  EmaUpdate update_left(const StepResult& result, const at::Tensor& verdict);
  bool on_device(c10::Device device) const;
  bool is_decided_by(const at::Tensor& verdict) const;
  Count& count_on(c10::Device device);
  void update_on_devices(const at::Tensor& verdict);
  void update_on_host();

  EmaOptions options_;
  std::shared_ptr<MasterWeights> masters_;  ///< null: the weights are what is trained
  std::shared_ptr<EmaHistory> history_;
  Counters counters_ = Counters::kWithParameters;
  std::vector<Count> counts_;  ///< one for each device that counts
  at::Tensor loaded_;          ///< on the CPU; what a load fills with the number of updates
  std::vector<Entry> entries_;
  std::unordered_map<const void*, size_t> places_;  ///< in `entries_`, of each weight
  std::weak_ptr<OptimizerCore> leader_;             ///< whose steps the averages follow by themselves
  bool applied_ = false;
  std::exception_ptr failure_;
};

}  // namespace accelerate::internal
