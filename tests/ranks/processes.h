#pragma once

#include <functional>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"

namespace ranks {

/// What `body` returned in each of `size` processes; "[thrown] ..." after an exception. Each rank is a process of its
/// own, seeded with 100 + rank: the default generator belongs to a process.
std::vector<std::string> run_processes(int size, const accelerate::AcceleratorOptions& options,
                                       const std::function<std::string(accelerate::Accelerator&)>& body);

}  // namespace ranks
