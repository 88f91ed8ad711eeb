#pragma once

#include "tests/ranks/ddp_support.h"

namespace ddp {

inline accelerate::AcceleratorOptions uneven(Ddp options = {}) {
  return {.dataloader_config = accelerate::DataLoaderConfiguration{.even_batches = false},
          .strategy = std::move(options)};
}

/// The loop of a user.
inline void run_joined(Accelerator& accelerator, const std::vector<accelerate::Joinable>& models,
                       accelerate::JoinOptions options, const std::function<void()>& loop) {
  auto join = accelerator.join_uneven_inputs(models, options);
  loop();
  join.finish();
}

}  // namespace ddp
