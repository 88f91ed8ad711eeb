#include "tests/parity/replay.h"

#include <stdexcept>

namespace parity {

std::string replay(const Json& trace, const Json& problem) {
  const std::string loop = trace.at("configuration").at("loop");
  if (loop == "supervised") return replay_supervised(trace, problem);
  if (loop == "two_models") return replay_two_models(trace, problem);
  if (loop == "adversarial") return replay_adversarial(trace, problem);
  throw std::runtime_error("a fixture names the loop '" + loop + "', which is not known here");
}

}  // namespace parity
