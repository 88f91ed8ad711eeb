#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace accelerate {

class Profiler;

/// Which steps are recorded: after `skip_first` steps come cycles of `wait` (nothing), `warmup` (recorded and thrown
/// away) and `active` ones. Source: `torch.profiler.schedule`.
struct ProfileSchedule {
  int64_t wait = 0;
  int64_t warmup = 0;
  int64_t active = 0;  ///< more than 0 where any field is given
  int64_t repeat = 0;  ///< number of cycles; 0: until the profile ends
  int64_t skip_first = 0;
};

/// What `accelerator.profile` records and where it goes. Source: `accelerate.utils.ProfileKwargs`.
struct ProfileKwargs {
  std::vector<std::string> activities = {};            ///< "cpu", "cuda"; empty: all that this process has
  ProfileSchedule schedule_option = {};                ///< untouched: everything is one cycle
  std::function<void(Profiler&)> on_trace_ready = {};  ///< called at the end of each cycle
  bool record_shapes = false;                          ///< shapes of the operators' inputs
  bool profile_memory = false;                         ///< what is allocated and freed
  bool with_stack = false;                             ///< call stacks, of scripted modules alone: C++ has none to ask
  bool with_flops = false;                             ///< estimates for matrix products and convolutions
  bool with_modules = false;                           ///< the module hierarchy, of scripted modules alone
  std::string output_trace_dir = {};                   ///< for `profile_<process_index>.json`; empty: no file
};

}  // namespace accelerate
