#include "tests/parity/replay.h"

#include <stdexcept>

namespace parity {

std::string replay(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options) {
  const std::string loop = trace.at("configuration").at("loop");
  if (loop == "supervised") return replay_supervised(trace, problem, options);
  if (loop == "two_models") return replay_two_models(trace, problem, options);
  if (loop == "adversarial") return replay_adversarial(trace, problem, options);
  if (loop == "closure") return replay_closure(trace, problem, options);
  if (loop == "two_optimizers") return replay_two_optimizers(trace, problem, options);
  throw std::runtime_error("a fixture names the loop '" + loop + "', which is not known here");
}

Json trace_of_rank(Json trace, int64_t rank) {
  const auto of_rank = static_cast<size_t>(rank);
  for (auto& [role, ranks] : trace.at("losses").items()) ranks = Json(ranks.at(of_rank));
  if (trace.contains("final_buffers")) {
    for (const auto& [role, buffers] : trace["final_buffers"].at(of_rank).items()) {
      trace.at("final_state").at(role).update(buffers);
    }
  }
  return trace;
}

}  // namespace parity
