#pragma once

#include <cstdint>

#include "accelerate/optim/kernels/element.h"

// One call of an update operator as raw memory; what `.cu` files see of it.

namespace accelerate::internal::kernels {

enum class Number { kFloat, kDouble, kHalf, kBFloat16 };

/// What all calls of one update of averages follow.
struct EmaClock {
  int64_t* updates = nullptr;   ///< made so far; counts on, unless skipped; null: a call before has counted
  double* kept = nullptr;       ///< becomes the share that this update keeps, unless skipped
  const float* skip = nullptr;  ///< not 0: nothing changes

  ACCELERATE_HOST_DEVICE void count(const EmaDecay& decay) const {
    if (updates == nullptr || (skip != nullptr && *skip != 0)) return;
    *updates += 1;
    *kept = decay.of(*updates);
  }
};

/// All pointers are of the device that computes. A null one stands for what the caller has not.
struct Call {
  Number number;         ///< of parameters and state
  Number gradients;      ///< the same; or 16 bits beside float32, then each parameter has a copy of that number
                         ///< or is of it itself and rounded stochastically
  int64_t tensors;       ///< how many
  const int64_t* sizes;  ///< elements of each
  void* const* arrays;   ///< parameter, gradient, state, copy, average of each, one tensor after the other
  const double* lr;
  int64_t* updates;     ///< applied so far; counts on with this call, unless it is skipped
  double* progress;     ///< room for two numbers between the kernels of a call
  const float* factor;  ///< of the gradients, which are written back
  const float* skip;    ///< not 0: only gradients change
  int64_t* draws;       ///< stochastic rounding: a seed, and how often was drawn, counted on; null: to nearest
  EmaClock averages;    ///< which are of float32, float64 for float64, or null; without `kept` there are none at all
  EmaDecay decay;       ///< of the averages, where this call counts
};

/// Tensors times one number; nothing at all if that is 1.
struct ScaleCall {
  Number number;         ///< of every tensor
  int64_t tensors;       ///< how many
  const int64_t* sizes;  ///< elements of each
  void* const* arrays;   ///< one of each
  const float* factor;
};

/// A look at gradients, of which nothing changes.
struct NormCall {
  Number number;         ///< of every gradient; of the norm float32, float64 for float64
  int64_t tensors;       ///< how many
  const int64_t* sizes;  ///< elements of each
  void* const* arrays;   ///< one of each
  const float* factor;   ///< of the gradients before their norm is taken
  void* norm;            ///< one number
  float* found;          ///< one number, 0 before: becomes 1 if an element is not finite
};

/// Averages that follow weights, after their clock.
struct EmaCall {
  Number average;
  Number weight;         ///< the same, or 16 bits beside float32
  int64_t tensors;       ///< how many
  const int64_t* sizes;  ///< elements of each
  void* const* arrays;   ///< average and weight of each, one tensor after the other
  const double* kept;
  const float* skip;
};

}  // namespace accelerate::internal::kernels
