#include "accelerate/optim/gradient_state.h"

#include <ostream>

namespace accelerate {
namespace {

std::string python(bool value) { return value ? "True" : "False"; }

}  // namespace

std::string GradientState::text() const {
  std::string plugin = "{'num_steps': " + std::to_string(num_steps());
  if (!sync_with_dataloader()) plugin += ", 'sync_with_dataloader': False";
  return "Sync Gradients: " + python(sync_gradients()) +
         "\nAt end of current dataloader: " + python(end_of_dataloader()) +
         "\nExtra samples added: " + std::to_string(remainder()) + "\nGradient accumulation plugin: " + plugin + "}\n";
}

std::ostream& operator<<(std::ostream& out, const GradientState& state) { return out << state.text(); }

}  // namespace accelerate
