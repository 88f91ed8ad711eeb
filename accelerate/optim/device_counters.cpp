#include "accelerate/optim/device_counters.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <algorithm>

namespace accelerate::internal {
namespace {

/// Counts that no parameter has any more would pile up where gradients are missing now and then.
constexpr size_t kCounts = 64;

/// Equal as bits: a NaN that stays one is not uploaded every step.
bool same(double a, double b) { return a == b || (a != a && b != b); }

}  // namespace

void DeviceRates::set(Rate& rate, double value) {
  if (same(rate.value, value)) return;
  rate.tensor.fill_(value);  // a kernel with the number among its arguments: nothing is copied
  rate.value = value;
}

const at::Tensor& DeviceRates::of(size_t group, double rate, c10::Device device) {
  const auto found = std::find_if(rates_.begin(), rates_.end(), [&](const Rate& known) {
    return known.group == group && known.tensor.device() == device;
  });
  if (found != rates_.end()) {
    set(*found, rate);
    return found->tensor;
  }
  return rates_.emplace_back(Rate{group, rate, at::full({}, rate, at::TensorOptions(at::kDouble).device(device))})
      .tensor;
}

void DeviceRates::upload(const torch::optim::Optimizer& optimizer) {
  const at::NoGradGuard no_grad;
  const auto& groups = optimizer.param_groups();
  for (Rate& rate : rates_) {
    if (rate.group < groups.size()) set(rate, groups[rate.group].options().get_lr());
  }
}

bool DeviceRates::are_those_of(const torch::optim::Optimizer& optimizer) const {
  const auto& groups = optimizer.param_groups();
  return !rates_.empty() && std::all_of(rates_.begin(), rates_.end(), [&](const Rate& rate) {
    return rate.group >= groups.size() || same(rate.value, groups[rate.group].options().get_lr());
  });
}

const at::Tensor& DeviceCounts::of(int64_t count, c10::Device device) {
  const auto is_used = [&](const at::Tensor& tensor) {
    return std::any_of(used_.begin(), used_.end(), [&](const at::Tensor& used) { return used.is_same(tensor); });
  };
  const auto found = std::find_if(counts_.begin(), counts_.end(), [&](const Count& known) {
    return known.value == count && known.tensor.device() == device && !is_used(known.tensor);
  });
  if (found != counts_.end()) return found->tensor;
  if (counts_.size() == kCounts) {
    counts_.erase(std::min_element(counts_.begin(), counts_.end(),
                                   [](const Count& a, const Count& b) { return a.last_used < b.last_used; }));
  }
  return counts_.emplace_back(Count{count, at::full({}, count, at::TensorOptions(at::kLong).device(device))}).tensor;
}

void DeviceCounts::counted_on(const at::Tensor& tensor) {
  for (Count& count : counts_) {
    if (!count.tensor.is_same(tensor)) continue;
    ++count.value;
    count.last_used = ++uses_;
  }
  used_.push_back(tensor);
}

void DeviceCounts::take_back() {
  for (const at::Tensor& tensor : used_) {
    for (Count& count : counts_) {
      if (count.tensor.is_same(tensor)) --count.value;
    }
  }
  used_.clear();
}

void DeviceCounts::reset() {
  counts_.clear();
  used_.clear();
}

}  // namespace accelerate::internal
