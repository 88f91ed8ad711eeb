#pragma once

namespace accelerate {

/// Options of the strategy "ddp": every rank holds the whole model, and gradients are averaged while backward runs.
/// Source: `accelerate.DistributedDataParallelKwargs`.
struct Ddp {
  static constexpr const char* kStrategy = "ddp";
  double bucket_cap_mb = 25;            ///< MiB of gradients that are exchanged at once; the first bucket of 25 holds 1
  bool find_unused_parameters = false;  ///< parameters that the loss does not reach take part with what they have
  bool static_graph = false;            ///< every backward reaches the same parameters as the first
  bool broadcast_buffers = true;        ///< a forward starts with the buffers of rank 0
  bool gradient_as_bucket_view = false;  ///< gradients live in the buckets: less memory, no copy
  bool operator==(const Ddp&) const = default;
};

using DistributedDataParallelKwargs = Ddp;

}  // namespace accelerate
