#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "accelerate/optim/ema.h"
#include "accelerate/optim/ema_history.h"
#include "accelerate/optim/update.h"

namespace accelerate::internal {

/// The averages of one Ema.
class EmaCore {
 public:
  EmaCore(const std::vector<ParameterTable>& tables, EmaOptions options, std::shared_ptr<MasterWeights> masters);

  /// Where updates are counted from the next one on, and what they keep is computed.
  void count_with(Counters counters) { counters_ = counters; }

  EmaUpdate update(const StepResult& result);

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
    at::Tensor weight;  ///< the user's own
    at::Tensor kept;    ///< what the weight was, while the average is in its place
  };
  /// What one call of an operator takes.
  struct Lists {
    std::vector<at::Tensor> averages = {}, weights = {};
  };

  void require_weights(const char* place) const;
  void follow_model(const char* place);
  void follow_load();
  at::Tensor followed(const at::Tensor& weight) const;
  bool on_device(c10::Device device) const;
  bool is_decided_by(const at::Tensor& verdict) const;
  const at::Tensor& count_on(c10::Device device);
  void update_on_devices(const at::Tensor& verdict);
  void update_on_host();

  EmaOptions options_;
  std::shared_ptr<MasterWeights> masters_;  ///< null: the weights are what is trained
  std::shared_ptr<EmaHistory> history_;
  Counters counters_ = Counters::kWithParameters;
  std::vector<at::Tensor> counts_;  ///< of updates, int64, one for each device that counts
  at::Tensor loaded_;               ///< on the CPU; what a load fills with the number of updates
  std::vector<Entry> entries_;
  bool applied_ = false;
  std::exception_ptr failure_;
};

}  // namespace accelerate::internal
