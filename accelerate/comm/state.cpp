#include "accelerate/comm/state.h"

#include <ostream>

namespace accelerate {

const char* name_of(DistributedType type) {
  switch (type) {
    case DistributedType::kMultiCpu:
      return "MULTI_CPU";
    case DistributedType::kMultiGpu:
      return "MULTI_GPU";
    case DistributedType::kNo:
      break;
  }
  return "NO";
}

std::string AcceleratorState::text() const {
  std::string text = std::string("Distributed environment: DistributedType.") + name_of(distributed_type);
  if (!backend.empty()) text += "  Backend: " + backend;
  text += "\nNum processes: " + std::to_string(num_processes());
  text += "\nProcess index: " + std::to_string(process_index());
  text += "\nLocal process index: " + std::to_string(local_process_index());
  text += "\nDevice: " + device.str() + "\n\nMixed precision type: " + mixed_precision + "\n";
  return text;
}

std::ostream& operator<<(std::ostream& out, DistributedType type) { return out << name_of(type); }
std::ostream& operator<<(std::ostream& out, const AcceleratorState& state) { return out << state.text(); }

}  // namespace accelerate
