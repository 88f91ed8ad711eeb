#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "accelerate/optim/schedule.h"

// Schedules that set rates of their own, whatever the groups had before, and momentum against them: of SGD and RMSprop
// `momentum`, of Adam and AdamW the first beta. A scheduler over another optimizer is a UsageError unless
// `.cycle_momentum = false`. Each function throws ConfigError for options that cannot be met.
namespace accelerate {

struct OneCycleLROptions {
  PerGroup max_lr = 0.0;                        ///< the peak; required
  std::optional<int64_t> total_steps = {};      ///< this or the next two are required
  std::optional<int64_t> epochs = {};           ///< times `steps_per_epoch` is the number of steps
  std::optional<int64_t> steps_per_epoch = {};  ///< of the loader as it was given
  double pct_start = 0.3;                       ///< part of the steps that rises
  std::string anneal_strategy = "cos";          ///< "cos" or "linear"
  bool cycle_momentum = true;
  PerGroup base_momentum = 0.85;  ///< at the peak
  PerGroup max_momentum = 0.95;   ///< at both ends
  double div_factor = 25.0;       ///< the first rate is max_lr / div_factor
  double final_div_factor = 1e4;  ///< the last one is the first / final_div_factor
  bool three_phase = false;       ///< down to the first rate as long as up, then on to the last
};
/// Step `total_steps - 1` has the last rate, and so have all later ones. A scheduler takes `total_steps` steps: a
/// prepared one stays there, any other `step()` beyond is a UsageError.
/// Source: `torch.optim.lr_scheduler.OneCycleLR`, which rises again at step `total_steps`.
Schedule one_cycle_lr(OneCycleLROptions options);

struct CyclicLROptions {
  PerGroup base_lr = 0.0;                      ///< lowest rate
  PerGroup max_lr = 0.0;                       ///< highest rate of the first cycle; required
  int64_t step_size_up = 2000;                 ///< steps from the lowest to the highest
  std::optional<int64_t> step_size_down = {};  ///< and back; unset: as many
  std::string mode =
      "triangular";    ///< "triangular"; "triangular2" halves the height each cycle; "exp_range" by `gamma`
  double gamma = 1.0;  ///< of "exp_range": the height is scaled by gamma^step
  std::function<double(double)> scale_fn = {};  ///< instead of a mode: the scale of the height, 1 for the whole of it
  std::string scale_mode = "cycle";             ///< what `scale_fn` is given: "cycle" (from 1) or "iterations" (steps)
  bool cycle_momentum = true;
  PerGroup base_momentum = 0.8;  ///< at the highest rate
  PerGroup max_momentum = 0.9;   ///< at the lowest rate
};
/// Source: `torch.optim.lr_scheduler.CyclicLR`.
Schedule cyclic_lr(CyclicLROptions options);

}  // namespace accelerate
