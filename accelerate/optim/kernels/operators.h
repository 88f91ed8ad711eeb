#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "accelerate/optim/kernels/element.h"
#include "accelerate/optim/update.h"

// Operators of this library, known to LibTorch's dispatcher as `accelerate::fused_adamw_` and so on: a profiler shows
// them, and what records operators sees their tensors. Everything that changes from step to step is in tensors of the
// parameters' device: a step is the same call every time, and can be captured.

namespace accelerate::internal::kernels {

/// Averages that follow the parameters of one call of an update, element i of each list belonging together.
struct Following {
  /// Empty, or of float32, of float64 for parameters of that; each follows what its parameter becomes. One without
  /// elements stands for none.
  at::TensorList averages = {};
  /// int64, one element: updates of averages made so far, counted on with this call unless it is skipped. Undefined:
  /// another call of the same update has counted.
  at::Tensor updates = {};
  at::Tensor kept = {};  ///< float64, one element: what this update keeps; written by the call that counts, read by all
  EmaDecay decay = {};
};

/// The tensors of one call, element i of each list belonging together: of one device and dtype, dense, of equal sizes
/// and strides.
struct Lists {
  at::TensorList parameters;
  at::TensorList gradients;
  /// Empty, or of bfloat16 or float16, as the gradients then are: the model's own parameters, written from
  /// `parameters`, which are of float32 as the state is.
  at::TensorList copies = {};
  /// Undefined, or without copies: int64, a seed and a count of draws, counted on. Parameters and gradients are of
  /// bfloat16, the state is of float32, and parameters are rounded stochastically, with numbers that follow from these
  /// two alone: replicas with equal draws stay equal.
  at::Tensor draws = {};
  Following following = {};
};

/// `lr`: float64, one element. `updates`: int64, one element; the updates of these parameters so far, counted on.
struct Clock {
  at::Tensor updates;
  at::Tensor lr;
};

/// State: first moments, second moments and, unless it is empty, the largest second moments (AMSGrad).
struct Moments {
  at::TensorList first;
  at::TensorList second;
  at::TensorList largest;
};

/// One pass over the memory. All throw c10::Error for tensors that do not fit together.
void fused_adam(const Lists& lists, const Moments& moments, const Clock& clock, const Adam<0>& numbers,
                const Verdict& verdict);
/// Without buffers there is no momentum. Without a count (`clock.updates` undefined) buffers have begun, be it with 0.
void fused_sgd(const Lists& lists, at::TensorList buffers, const Clock& clock, const Sgd<1>& numbers,
               const Verdict& verdict);
void fused_lion(const Lists& lists, at::TensorList averages, const at::Tensor& lr, const Lion& numbers,
                const Verdict& verdict);

/// Makes `parameters`, of bfloat16, what `values`, of float32, are rounded to stochastically; `draws` as in `Lists`.
void round_stochastically(at::TensorList parameters, at::TensorList values, const at::Tensor& draws);

/// Multiplies tensors of one device and dtype, dense, by `factor` (float32, one element) in place: one pass, none if it
/// is 1, of which the host knows nothing.
void scale(at::TensorList tensors, const at::Tensor& factor);

struct Norm {
  at::Tensor norm;   ///< 0-d, the 2-norm over all, of the gradients times `factor`; float32, float64 for float64
  at::Tensor found;  ///< float32, [1]: 1 if a gradient is not finite, else 0
};
/// One pass over gradients of one device and dtype, at least one, dense; nothing is written. `factor` as in `Verdict`.
Norm gradient_norm(at::TensorList gradients, const at::Tensor& factor = {});

/// Averages and the weights that they follow, element i of each list belonging together.
struct Averages {
  at::TensorList averages;
  at::TensorList weights;
};
/// Whether an average and its weight are of one device, dense and of equal sizes and strides, the average of float32 or
/// float64, the weight of the same, or of 16 bits beside float32.
bool can_follow(const at::Tensor& average, const at::Tensor& weight);
/// One pass. `updates` (int64, one element, of the averages' device) are those made so far: counted on, and what this
/// one keeps follows from it. `skip` as in `Verdict`. Throws c10::Error for tensors that do not fit together.
void fused_ema(const Averages& lists, const at::Tensor& updates, const EmaDecay& decay, const at::Tensor& skip = {});
/// The same for what an update that averages follow left over: it has counted, and keeps `kept` (see `Following`).
void follow_weights(const Averages& lists, const at::Tensor& kept, const at::Tensor& skip = {});

/// Has the device count `number` (int64, one element) on and write it, then whether the update was skipped, into
/// `outcomes`: {number, 1 or 0}, int64 on the host, pinned for CUDA; the same 1 or 0 into `kept` (float32, one element
/// on the device), if there is one. Nothing is copied.
void publish_update(const at::Tensor& number, const at::Tensor& outcomes, const std::optional<at::Tensor>& skip,
                    const std::optional<at::Tensor>& kept = {});
/// Waits until `outcomes` is that of update `update`; true if it was skipped. An operator, so that what records
/// operators and holds them back learns that the host wants to know. Throws c10::Error after an error of the device,
/// and 10 s after it has nothing more to do.
bool await_update(const at::Tensor& number, const at::Tensor& outcomes, int64_t update);
/// The same without waiting; nothing: not known yet.
std::optional<bool> peek_update(const at::Tensor& outcomes, int64_t update);

}  // namespace accelerate::internal::kernels
