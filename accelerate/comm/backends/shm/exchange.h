#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "accelerate/comm/backends/shm/fence.h"
#include "accelerate/comm/backends/shm/reduce_kernels.h"
#include "accelerate/comm/backends/shm/segment.h"

namespace accelerate::internal::shm {

/// How elements are combined.
struct Reduction {
  ReduceKernel kernel = nullptr;
  size_t element_bytes = 1;
};

/// The collectives over contiguous memory. Each runs in the caller and is over when it returns. Before one is called,
/// `Fence::begin`; every rank calls the same with the same sizes (which the fence checks).
///
/// Data goes in chunks of at most a buffer: while the others still read chunk k, chunk k + 1 is written, so that what
/// is exchanged stays in the caches however long the tensors are.
class Exchange {
 public:
  Exchange(Segment& segment, Fence& fence, int rank);

  void barrier();

  /// `data` becomes the reduction over all ranks, the same bits on each.
  void all_reduce(std::byte* data, size_t elements, const Reduction& reduction);

  /// As all_reduce, but only `root`'s data changes.
  void reduce(std::byte* data, size_t elements, const Reduction& reduction, int root);

  /// `out` becomes the reduction of every rank's `parts[own rank]`; it may be that part, and overlaps none otherwise.
  void reduce_scatter(std::span<const std::byte* const> parts, std::byte* out, size_t elements,
                      const Reduction& reduction);

  void broadcast(std::byte* data, size_t bytes, int root);

  /// outs[r] becomes rank r's `data`; empty `outs`: this rank only gives.
  void all_gather(const std::byte* data, std::span<std::byte* const> outs, size_t bytes);

  /// outs[i] becomes every rank's parts[i], one behind the other. All go together: a list costs what one part of as
  /// many bytes costs. Throws CommError on every rank where the sizes of the parts differ.
  void all_gather_list(std::span<const std::span<const std::byte>> parts, std::span<std::byte* const> outs);

  /// `out` becomes root's parts[own rank]; others pass no parts.
  void scatter(std::span<const std::byte* const> parts, std::byte* out, size_t bytes, int root);

  /// receive[r] becomes rank r's send[own rank]. Sizes may differ; throws CommError on every rank where what one sends
  /// is not what the other expects.
  void all_to_all(std::span<const std::span<const std::byte>> send, std::span<const std::span<std::byte>> receive);

 private:
  struct Part {
    size_t start, count;
  };
  /// The elements of `elements` that `rank` reduces.
  Part part(int rank, size_t elements) const noexcept;
  size_t chunk_elements(const Reduction& reduction) const noexcept;
  std::byte* mine(uint64_t chunk) noexcept { return segment_.buffer(rank_, next_ + chunk); }
  std::byte* of(int rank, uint64_t chunk) noexcept { return segment_.buffer(rank, next_ + chunk); }

  void reduce_small(std::byte* data, size_t elements, const Reduction& reduction, int only);
  void reduce_long(std::byte* data, size_t elements, const Reduction& reduction, int only);
  void compare_lists(std::span<const std::span<const std::byte>> parts);
  void compare_sizes(std::span<const std::span<const std::byte>> send, std::span<const std::span<std::byte>> receive,
                     size_t& longest);

  template <class Give, class Take>
  void two_steps(size_t chunks, const Give& give, const Take& take);
  template <class Give, class Combine, class Take>
  void three_steps(size_t chunks, const Give& give, const Combine& combine, const Take& take);

  Segment& segment_;
  Fence& fence_;
  const int rank_;
  const int size_;
  uint64_t next_ = 0;                 // buffers used so far, by every rank alike
  std::vector<const void*> sources_;  // scratch: nothing is allocated in a call
};

}  // namespace accelerate::internal::shm
