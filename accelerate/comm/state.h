#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <iosfwd>
#include <string>

#include "accelerate/comm/world.h"

namespace accelerate {

/// How the processes train together. Source: `accelerate.utils.DistributedType`, of whose members these two and `NO`
/// exist here. One process is `kNo`, whoever started it.
enum class DistributedType { kNo, kMultiCpu, kMultiGpu };

/// The original's name: "NO", "MULTI_CPU", "MULTI_GPU".
const char* name_of(DistributedType type);

/// What an Accelerator has become: a value, printable in the original's form.
/// Source: `accelerate.state.PartialState` and `AcceleratorState`, without their global storage.
struct AcceleratorState {
  World world = {};
  DistributedType distributed_type = DistributedType::kNo;
  std::string backend = {};  ///< the transports, "cpu:shm"; empty in one process
  c10::Device device{c10::kCPU};
  std::string mixed_precision = {};
  bool debug = false;  ///< collectives compare shapes first

  int64_t num_processes() const { return world.size; }
  int64_t process_index() const { return world.rank; }
  int64_t local_process_index() const { return world.local_rank; }
  bool use_distributed() const { return distributed_type != DistributedType::kNo; }
  bool is_main_process() const { return world.rank == 0; }
  bool is_local_main_process() const { return world.local_rank == 0; }
  bool is_last_process() const { return world.rank == world.size - 1; }
  /// The original's lines: `Distributed environment:`, `Num processes:`, ..., `Mixed precision type:`.
  std::string text() const;
};

std::ostream& operator<<(std::ostream& out, DistributedType type);
std::ostream& operator<<(std::ostream& out, const AcceleratorState& state);

}  // namespace accelerate
