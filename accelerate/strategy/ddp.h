#pragma once

#include <cstdint>
#include <string>
#include <variant>

namespace accelerate {

/// State of the communication hooks that send gradients as products of two thin matrices.
/// Source: `torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook.PowerSGDState`; Vogels et al., PowerSGD, 2019.
struct PowerSgd {
  int64_t matrix_approximation_rank = 1;  ///< columns of the two matrices
  int64_t start_powerSGD_iter = 1'000;    ///< backward passes that average plainly first; 2 or more with the two below
  double min_compression_rate = 2;        ///< a parameter is compressed when that saves at least this factor
  bool use_error_feedback = true;         ///< what compression loses is added to the next gradient
  bool warm_start = true;                 ///< a pass starts from the last one's matrix, not from a random one
  double orthogonalization_epsilon = 0;   ///< added to the norms of columns
  int64_t random_seed = 0;                ///< of the random matrices: 0 to 2^32 - 1
  int64_t compression_stats_logging_frequency = 10'000;  ///< passes between two lines of log
  bool batch_tensors_with_same_shape = false;            ///< parameters of one shape are multiplied together
  bool operator==(const PowerSgd&) const = default;
};

/// What a communication hook may be told; nothing for its defaults.
using CommStateOption = std::variant<std::monostate, PowerSgd>;

/// Options of the strategy "ddp": every rank holds the whole model, and gradients are averaged while backward runs.
/// Source: `accelerate.DistributedDataParallelKwargs`.
struct Ddp {
  static constexpr const char* kStrategy = "ddp";
  double bucket_cap_mb = 25;            ///< MiB of gradients that are exchanged at once; the first bucket of 25 holds 1
  bool find_unused_parameters = false;  ///< parameters that the loss does not reach take part with what they have
  bool static_graph = false;            ///< every backward reaches the same parameters as the first
  bool broadcast_buffers = true;        ///< a forward starts with the buffers of rank 0
  bool gradient_as_bucket_view = false;  ///< gradients live in the buckets: less memory, no copy
  std::string comm_hook = "no";  ///< how gradients travel; an entry of strategy/ddp/hooks: fp16, bf16, power_sgd, ...
  std::string comm_wrapper = "no";         ///< the hook is given gradients of this precision: fp16 or bf16
  CommStateOption comm_state_option = {};  ///< `PowerSgd{...}` for the hooks that have a state
  bool operator==(const Ddp&) const = default;
};

using DistributedDataParallelKwargs = Ddp;

}  // namespace accelerate
