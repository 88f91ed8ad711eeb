#include "accelerate/nn/sync_batch_norm.h"

#include <ATen/ATen.h>
#include <ATen/AccumulateType.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldGroup : torch::CustomClassHolder {
  explicit HeldGroup(Group g) : group(std::move(g)) {}
  Group group;
};

/// What one rank has seen of each channel; on a GPU `spread` is the inverse standard deviation, which its kernels
/// take, else the sum of the squared distances from the mean.
struct Statistics {
  at::Tensor means, spreads;  ///< {ranks, channels}
  at::Tensor counts;          ///< {ranks}: elements of a channel
};

bool is_channels_last(const at::Tensor& tensor) {
  return tensor.is_contiguous(at::MemoryFormat::ChannelsLast) || tensor.is_contiguous(at::MemoryFormat::ChannelsLast3d);
}

at::Tensor dense(const at::Tensor& tensor) { return is_channels_last(tensor) ? tensor : tensor.contiguous(); }

/// All but the channels.
std::vector<int64_t> others(const at::Tensor& tensor) {
  std::vector<int64_t> dims{0};
  for (int64_t i = 2; i < tensor.dim(); ++i) dims.push_back(i);
  return dims;
}

/// One number a channel, to be combined with `like`.
at::Tensor along(const at::Tensor& channels, const at::Tensor& like) {
  std::vector<int64_t> shape(static_cast<size_t>(like.dim()), 1);
  shape[1] = channels.numel();
  return channels.view(shape);
}

at::ScalarType wide(const at::Tensor& input) { return at::toAccumulateType(input.scalar_type(), /*is_cuda=*/true); }

/// Gathers {mean, spread, count} of every rank in one exchange.
Statistics gather(const at::Tensor& mean, const at::Tensor& spread, const at::Tensor& count, const Group& group) {
  const int64_t channels = mean.numel();
  const at::Tensor all = group.all_gather(at::cat({mean, spread, count}).unsqueeze(0));
  return {all.narrow(1, 0, channels), all.narrow(1, channels, channels), all.select(1, 2 * channels)};
}

/// How the running values follow, and what they were told.
struct Running {
  at::Tensor mean, var;
  double momentum = 0;
};

/// Mean and inverse standard deviation over all ranks.
struct Normal {
  at::Tensor mean, invstd, counts;
};

Normal normal_on_gpu(const at::Tensor& input, const Running& running, double eps, const Group& group) {
  const auto options = input.options().dtype(wide(input));
  const int64_t channels = input.size(1);
  // A rank without samples sends what drops out of the kernel's sums: a variance of 0 that counts almost nothing. A
  // count of 0 would divide by 0 there, and finding out which rank has it would stop the host.
  constexpr double kAlmostNothing = 1e-30;
  at::Tensor mean, invstd;
  if (input.numel() > 0) {
    std::tie(mean, invstd) = at::batch_norm_stats(input, eps);
  } else {
    mean = at::zeros({channels}, options);
    invstd = at::full({channels}, 1 / std::sqrt(eps), options);
  }
  const double own = input.numel() > 0 ? static_cast<double>(input.numel() / channels) : kAlmostNothing;
  const Statistics all = gather(mean, invstd, at::full({1}, own, options), group);
  // The kernel reads counts in the dtype of the running values, or else of the input: eight bits are too few for them.
  const bool direct = running.mean.defined() && running.mean.scalar_type() == wide(input);
  const Running seen = direct ? running : Running{at::zeros({channels}, options), at::zeros({channels}, options), 1.0};
  const at::Tensor counts = all.counts.contiguous();
  std::tie(mean, invstd) = at::batch_norm_gather_stats_with_counts(
      input, all.means.contiguous(), all.spreads.contiguous(), seen.mean, seen.var, seen.momentum, eps, counts);
  if (running.mean.defined() && !direct) {
    running.mean.lerp_(seen.mean.to(running.mean.scalar_type()), running.momentum);
    running.var.lerp_(seen.var.to(running.var.scalar_type()), running.momentum);
  }
  return {mean, invstd, counts};
}

Normal normal_on_cpu(const at::Tensor& input, const Running& running, double eps, const Group& group) {
  const int64_t channels = input.size(1);
  const auto options = input.options().dtype(at::kDouble);
  at::Tensor mean = at::zeros({channels}, options), spread = at::zeros({channels}, options);
  const double own = input.numel() > 0 ? static_cast<double>(input.numel() / channels) : 0;
  if (input.numel() > 0) {
    const at::Tensor x = input.to(wide(input));
    const at::Tensor own_mean = x.mean(others(x));
    mean = own_mean.to(at::kDouble);
    spread = (x - along(own_mean, x)).square().sum(others(x)).to(at::kDouble);
  }
  const Statistics all = gather(mean, spread, at::full({1}, own, options), group);
  const at::Tensor counts = all.counts.unsqueeze(1);
  const double total = all.counts.sum().item<double>();
  if (total < 2) {
    throw UsageError({.place = "SyncBatchNorm",
                      .what = "There is no variance of so few values",
                      .got = std::to_string(static_cast<int64_t>(total)) + " for each channel, over all processes",
                      .expected = "2 or more when training",
                      .remedy = "Use larger batches, or eval()"});
  }
  mean = (all.means * counts).sum(0) / total;
  spread = (all.spreads + (all.means - mean).square() * counts).sum(0);
  if (running.mean.defined()) {
    const auto follow = [&](const at::Tensor& value, const at::Tensor& seen) {
      value.mul_(1 - running.momentum).add_(seen.to(value.scalar_type()), running.momentum);
    };
    follow(running.mean, mean);
    follow(running.var, spread / (total - 1));
  }
  const at::Tensor invstd = (spread / total + eps).rsqrt();
  return {mean.to(wide(input)), invstd.to(wide(input)), all.counts.contiguous()};
}

at::Tensor normalised(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias, const Normal& normal,
                      double eps) {
  if (input.numel() == 0) return at::empty_like(input);
  if (input.is_cuda()) return at::batch_norm_elemt(input, weight, bias, normal.mean, normal.invstd, eps);
  at::Tensor out = (input.to(wide(input)) - along(normal.mean, input)) * along(normal.invstd, input);
  if (weight.defined()) out = out * along(weight, input);
  if (bias.defined()) out = out + along(bias, input);
  return out.to(input.scalar_type());
}

/// Of one rank: sums over its own samples.
struct Sums {
  at::Tensor dy, dy_xmu;
  at::Tensor weight_gradient, bias_gradient;
};

Sums sums_of(const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, const Normal& normal) {
  Sums sums;
  if (input.numel() == 0) {
    sums.dy = at::zeros_like(normal.mean);
    sums.dy_xmu = at::zeros_like(normal.mean);
    if (weight.defined()) sums.weight_gradient = at::zeros_like(weight);
    if (weight.defined()) sums.bias_gradient = at::zeros_like(weight);
    return sums;
  }
  if (input.is_cuda()) {
    std::tie(sums.dy, sums.dy_xmu, sums.weight_gradient, sums.bias_gradient) = at::batch_norm_backward_reduce(
        gradient, input, normal.mean, normal.invstd, weight, /*input_g=*/true, weight.defined(), weight.defined());
    return sums;
  }
  const at::Tensor dy = gradient.to(wide(input));
  sums.dy = dy.sum(others(input));
  sums.dy_xmu = (dy * (input.to(wide(input)) - along(normal.mean, input))).sum(others(input));
  if (weight.defined()) {
    sums.weight_gradient = (sums.dy_xmu * normal.invstd).to(weight.scalar_type());
    sums.bias_gradient = sums.dy.to(weight.scalar_type());
  }
  return sums;
}

at::Tensor input_gradient(const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight,
                          const Normal& normal, const Sums& all) {
  if (input.numel() == 0) return at::zeros_like(input);
  const at::Tensor scale = weight.defined() ? weight.to(normal.mean.scalar_type()) : at::Tensor();
  if (input.is_cuda()) {
    return at::batch_norm_backward_elemt(gradient, input, normal.mean, normal.invstd, scale, all.dy, all.dy_xmu,
                                         normal.counts.to(at::kInt));
  }
  const at::Tensor total = normal.counts.sum().to(normal.mean.scalar_type());
  const at::Tensor xmu = input.to(wide(input)) - along(normal.mean, input);
  at::Tensor out = gradient.to(wide(input)) - along(all.dy / total, input) -
                   xmu * along(normal.invstd.square() * all.dy_xmu / total, input);
  out = out * along(scale.defined() ? normal.invstd * scale : normal.invstd, input);
  return out.to(input.scalar_type());
}

class SyncNorm : public torch::autograd::Function<SyncNorm> {
 public:
  using Optional = std::optional<at::Tensor>;  // how autograd takes one that may be missing

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& given, const Optional& given_weight,
                            const Optional& given_bias, const Running& running, double eps, const Group& group) {
    const at::Tensor input = dense(given), weight = given_weight.value_or(at::Tensor());
    const at::Tensor bias = given_bias.value_or(at::Tensor());
    const Normal normal =
        input.is_cuda() ? normal_on_gpu(input, running, eps, group) : normal_on_cpu(input, running, eps, group);
    ctx->save_for_backward({input, weight, normal.mean, normal.invstd, normal.counts});
    ctx->saved_data["group"] = c10::IValue::make_capsule(c10::make_intrusive<HeldGroup>(group));
    return normalised(input, weight, bias, normal, eps);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    if (at::GradMode::is_enabled()) {
      throw UsageError({.place = "SyncBatchNorm",
                        .what = "It cannot be differentiated twice",
                        .got = "a backward pass that makes a graph",
                        .expected = ".create_graph = false",
                        .remedy = "Use the plain BatchNorm for losses of gradients"});
    }
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1];
    const Normal normal{saved[2], saved[3], saved[4]};
    const auto held = ctx->saved_data["group"].toCapsule();
    const Group& group = static_cast<const HeldGroup&>(*held).group;
    const at::Tensor gradient = dense(gradients[0]);
    Sums sums = sums_of(gradient, input, weight, normal);
    at::Tensor for_input;
    if (ctx->needs_input_grad(0)) {
      // Over all samples; the parameters' own gradients are averaged as those of any other parameter.
      const at::Tensor both = at::cat({sums.dy, sums.dy_xmu});
      group.all_reduce(both).wait();
      sums.dy = both.narrow(0, 0, input.size(1));
      sums.dy_xmu = both.narrow(0, input.size(1), input.size(1));
      for_input = input_gradient(gradient, input, weight, normal, sums);
    }
    return {for_input, sums.weight_gradient, sums.bias_gradient, {}, {}, {}};
  }
};

/// The running values as means over all batches so far, without the host knowing how many: the exchange above writes
/// what this batch alone would be, and this mixes the two.
void follow_all(const BatchNormState& state, const at::Tensor& mean, const at::Tensor& var) {
  const at::Tensor share = state.num_batches_tracked.to(mean.scalar_type()).reciprocal();
  state.running_mean.lerp_(mean, share);
  state.running_var.lerp_(var, share);
}

}  // namespace

at::Tensor sync_batch_norm(const at::Tensor& input, const BatchNormState& state, const Group& group) {
  if (input.size(1) == 0) {
    throw UsageError({.place = "SyncBatchNorm",
                      .what = "The input has no channels",
                      .got = "size 0 in dimension 1",
                      .expected = "1 or more",
                      .remedy = "Put the channels into dimension 1"});
  }
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? std::optional(tensor) : std::nullopt;
  };
  const auto weight = optional(state.weight), bias = optional(state.bias);
  const bool tracked = state.running_mean.defined();
  if (tracked) state.num_batches_tracked.add_(1);
  if (!tracked) return SyncNorm::apply(input, weight, bias, Running{}, state.eps, group);
  if (state.momentum) {
    const Running running{state.running_mean, state.running_var, *state.momentum};
    return SyncNorm::apply(input, weight, bias, running, state.eps, group);
  }
  const Running alone{at::zeros_like(state.running_mean), at::zeros_like(state.running_var), 1.0};
  at::Tensor out = SyncNorm::apply(input, weight, bias, alone, state.eps, group);
  follow_all(state, alone.mean, alone.var);
  return out;
}

void throw_not_enough_dimensions(int64_t dimensions) {
  throw UsageError({.place = "SyncBatchNorm",
                    .what = "The input has too few dimensions",
                    .got = std::to_string(dimensions),
                    .expected = "2 or more: samples and channels first",
                    .remedy = "Give a single sample a dimension of size 1 with unsqueeze(0)"});
}

}  // namespace accelerate::internal
