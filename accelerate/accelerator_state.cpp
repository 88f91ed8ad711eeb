// What an Accelerator says about itself, randomness, and which process goes first.
#include <utility>

#include "accelerate/accelerator.h"
#include "accelerate/comm/random_state.h"
#include "accelerate/runtime.h"

namespace accelerate {

const AcceleratorState& Accelerator::state() const { return runtime().state(); }
GradientState Accelerator::gradient_state() const { return runtime().gradient_state(); }
bool Accelerator::native_amp() const {
  const PrecisionPolicy& policy = runtime().plan().precision.policy;
  return policy.compute.has_value();
}
const std::shared_ptr<GradScaler>& Accelerator::scaler() const { return runtime().scaler(); }
int64_t Accelerator::gradient_accumulation_steps() const { return runtime().sync()->num_steps(); }
void Accelerator::set_gradient_accumulation_steps(int64_t steps) { runtime().sync()->set_num_steps(steps); }
bool Accelerator::sync_gradients() const { return runtime().sync()->sync_gradients(); }
bool Accelerator::device_placement() const { return runtime().plan().setup.device_placement; }
bool Accelerator::step_scheduler_with_optimizer() const { return runtime().plan().step_scheduler_with_optimizer; }
const DataLoaderConfiguration& Accelerator::dataloader_config() const { return runtime().plan().data; }
const std::vector<std::string>& Accelerator::rng_types() const { return runtime().plan().setup.rng_types; }
const ProjectConfiguration& Accelerator::project_configuration() const { return runtime().plan().setup.project; }
const Fields& Accelerator::plan() const { return runtime().plan().fields; }

void Accelerator::set_seed(uint64_t seed, SeedOptions options) const {
  if (std::exchange(options.device_specific, false)) seed += static_cast<uint64_t>(process_index());
  accelerate::set_seed(seed, options);
}

namespace {

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

void Accelerator::synchronize_rng_states(const std::vector<std::string>& rng_types) const {
  require_same_call("synchronize_rng_states", listed(rng_types));
  internal::synchronize_rng_states(runtime().group(), rng_types, device(), nullptr);
}

void Accelerator::synchronize_rng_states(const std::vector<std::string>& rng_types, at::Generator& generator) const {
  require_same_call("synchronize_rng_states", listed(rng_types));
  internal::synchronize_rng_states(runtime().group(), rng_types, device(), &generator);
}

ProcessOrder Accelerator::main_process_first() const {
  require_same_call("main_process_first", "");
  const auto turn = is_main_process() ? ProcessOrder::Turn::kFirst : ProcessOrder::Turn::kAfterwards;
  return ProcessOrder("main_process_first", turn, runtime().group(), runtime().log());
}

ProcessOrder Accelerator::local_main_process_first() const {
  require_same_call("local_main_process_first", "");
  const auto turn = is_local_main_process() ? ProcessOrder::Turn::kFirst : ProcessOrder::Turn::kAfterwards;
  return ProcessOrder("local_main_process_first", turn, runtime().group(), runtime().log());
}

void Accelerator::set_trigger() { runtime().trigger().set(); }
bool Accelerator::check_trigger() {
  require_same_call("check_trigger", "");
  return runtime().trigger().check(runtime().group());
}

}  // namespace accelerate
