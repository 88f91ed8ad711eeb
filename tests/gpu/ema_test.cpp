// Averages of the weights on a GPU: against LibTorch's lerp and the same operator on the CPU, what the device counts,
// and what a trace shows of a step.
#include <ATen/ATen.h>

#include <cstdio>
#include <limits>
#include <string>

#include "accelerate/optim/ema.h"
#include "accelerate/optim/kernels/operators.h"
#include "tests/gpu/gpu.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::Accelerator;
using accelerate::Ema;
using accelerate::EmaOptions;
using accelerate::EmaUpdate;
using accelerate::StepResult;
using accelerate::internal::ema_decay;
using kernels::EmaRise;
using training::make_batch;
using training::Mlp;
using training::mse;
using Tensors = std::vector<at::Tensor>;

const c10::Device kGpu(torch::kCUDA, 0);
at::TensorOptions on_gpu(at::ScalarType dtype) { return at::TensorOptions(dtype).device(kGpu); }

/// Empty, of one element, odd, larger than a block, transposed, and beginning in the middle of a vector; more than the
/// arguments of one kernel hold.
Tensors shapes(at::ScalarType dtype) {
  const auto noise = [&](std::vector<int64_t> sizes) { return torch::randn(sizes, on_gpu(dtype)); };
  Tensors tensors{noise({}),     noise({0}),       noise({1}),           noise({7}),
                  noise({1025}), noise({129, 65}), noise({65, 129}).t(), noise({300, 700})};
  tensors.push_back(noise({4099}).slice(0, 1));
  tensors.push_back(noise({67}).slice(0, 3));
  for (int64_t i = 0; i < 120; ++i) tensors.push_back(noise({i % 11}));
  return tensors;
}
Tensors copies(const Tensors& tensors, c10::Device device) {
  Tensors made;
  for (const at::Tensor& tensor : tensors) {
    made.push_back(torch::empty_like(tensor, tensor.options().device(device)).copy_(tensor));
  }
  return made;
}

struct Difference {
  double largest = 0;  ///< of elements around 1
  int64_t unequal = 0, elements = 0;
  void add(const at::Tensor& ours, const at::Tensor& theirs) {
    if (ours.numel() == 0) return;
    const at::Tensor a = ours.cpu().to(torch::kDouble), b = theirs.cpu().to(torch::kDouble);
    largest = std::max(largest, ((a - b).abs() / (1 + b.abs())).max().item<double>());
    unequal += (a != b).sum().item<int64_t>();
    elements += a.numel();
  }
};

class EmaOnGpu : public gpu::OneGpu {};

TEST_F(EmaOnGpu, AveragesAreThoseOfLibTorchsLerpAndOfTheCpu) {
  const std::pair<at::ScalarType, at::ScalarType> kinds[] = {{torch::kFloat, torch::kFloat},
                                                             {torch::kDouble, torch::kDouble},
                                                             {torch::kFloat, torch::kHalf},
                                                             {torch::kFloat, torch::kBFloat16}};
  for (const double decay : {0.999, 0.9, 0.3, 1.0}) {
    torch::manual_seed(1);
    Tensors ours, weights;
    for (const auto& [wide, low] : kinds) {
      for (const at::Tensor& average : shapes(wide)) {
        const bool shifted = average.storage_offset() != 0;  // the weight begins elsewhere
        ours.push_back(shifted ? average : average.clone());
        weights.push_back(torch::empty_like(average, average.options().dtype(low)));
      }
    }
    Tensors lerp = copies(ours, kGpu), on_cpu = copies(ours, torch::kCPU);
    const at::Tensor updates = torch::zeros({}, on_gpu(torch::kLong)), on_host = torch::zeros({}, torch::kLong);
    const kernels::EmaDecay rule{decay, 0, 1, 1, 0, EmaRise::kNone};
    for (int update = 0; update < 4; ++update) {
      for (at::Tensor& weight : weights) weight.normal_();
      kernels::fused_ema({ours, weights}, updates, rule);
      kernels::fused_ema({on_cpu, copies(weights, torch::kCPU)}, on_host, rule);
      for (size_t i = 0; i < ours.size(); ++i) {
        const at::Tensor weight = weights[i].to(lerp[i].scalar_type());
        update == 0 ? lerp[i].copy_(weight) : lerp[i].lerp_(weight, 1 - decay);
      }
    }
    // A multiplication and an addition that are rounded apart differ by a unit of the last place each time.
    Difference narrow, wide, cpu;
    for (size_t i = 0; i < ours.size(); ++i) {
      (ours[i].scalar_type() == torch::kDouble ? wide : narrow).add(ours[i], lerp[i]);
      cpu.add(ours[i], on_cpu[i]);
    }
    EXPECT_LE(narrow.largest, 5e-7) << decay;
    EXPECT_LE(wide.largest, 2e-15) << decay;
    EXPECT_EQ(cpu.unequal, 0) << decay << ", by " << cpu.largest << ": both are fused multiply-adds";
    EXPECT_EQ(updates.item<int64_t>(), 4);
    std::printf("averages that keep %g, against LibTorch's lerp: %lld of %lld numbers differ, by %g and %g at most\n",
                decay, static_cast<long long>(narrow.unequal + wide.unequal),
                static_cast<long long>(narrow.elements + wide.elements), narrow.largest, wide.largest);
  }
}

/// An average of 0 beside a weight of 1 becomes what is not kept.
TEST_F(EmaOnGpu, TheDeviceKnowsWhatEachUpdateKeeps) {
  const std::pair<EmaOptions, kernels::EmaDecay> rules[] = {
      {{.decay = 0.9, .update_after_step = 3}, {0.9, 0, 1, 1, 3, EmaRise::kNone}},
      {{.decay = 0.9, .min_decay = 0.3, .use_ema_warmup = true, .inv_gamma = 2, .power = 0.75},
       {0.9, 0.3, 2, 0.75, 0, EmaRise::kWarmUp}},
      {{.decay = 0.8, .ramp_up = true, .update_after_step = 1}, {0.8, 0, 1, 1, 1, EmaRise::kRamp}}};
  for (const auto& [options, rule] : rules) {
    const at::Tensor average = torch::zeros({1}, on_gpu(torch::kDouble)), weight = torch::ones_like(average);
    const at::Tensor updates = torch::zeros({}, on_gpu(torch::kLong)), skip = torch::zeros({1}, on_gpu(torch::kFloat));
    int64_t applied = 0;
    for (int step = 0; step < 60; ++step) {
      skip.fill_(step % 5 == 2 ? std::numeric_limits<float>::infinity() : 0);
      average.zero_();
      kernels::fused_ema({{average}, {weight}}, updates, rule, skip);
      const double expected = step % 5 == 2 ? 0 : 1 - ema_decay(options, ++applied);
      EXPECT_NEAR(average.item<double>(), expected, 1e-15) << "step " << step;
      EXPECT_EQ(updates.item<int64_t>(), applied);
    }
  }
}

accelerate::AcceleratorOptions scaled() {
  return {.mixed_precision = "fp16",
          .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
          .scaler_handler = accelerate::GradScalerKwargs{.init_scale = 256, .growth_interval = 2}};
}

TEST_F(EmaOnGpu, FollowsTheStepsThatTheDeviceDidNotSkip) {
  Accelerator accelerator(scaled());
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.1));
  const EmaOptions options{.decay = 0.9, .use_ema_warmup = true};
  Ema ema(model, options);
  Tensors expected = training::copy_of(net->parameters());
  std::vector<EmaUpdate> updates;
  int64_t applied = 0;
  for (int step = 0; step < 20; ++step) {
    const auto [x, y] = make_batch(5, static_cast<uint64_t>(step));
    const bool bad = step % 5 == 2;
    accelerator.backward(mse(model(x.to(accelerator.device())), y.to(accelerator.device())));
    if (bad) net->out->bias.mutable_grad()[1] = std::numeric_limits<double>::infinity();
    accelerator.clip_grad_norm_(model, 0.5);
    updates.push_back(ema.update(optimizer.step()));
    optimizer.zero_grad();
    if (bad) continue;
    const double decay = ema_decay(options, ++applied);
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] = decay * expected[i] + (1 - decay) * net->parameters()[i].detach();
    }
  }
  EXPECT_EQ(ema.optimization_step(), 16);
  int64_t update = 0;
  for (size_t step = 0; step < updates.size(); ++step) {
    EXPECT_EQ(updates[step].applied(), step % 5 != 2) << step;
    EXPECT_EQ(updates[step].decay(), step % 5 == 2 ? 0 : ema_decay(options, ++update)) << step;
  }
  const auto averages = ema.apply();
  EXPECT_LT(training::distance(training::copy_of(net->parameters()), expected), 1e-13);
}

TEST_F(EmaOnGpu, TheCountGoesOnWhereAModelIsMoved) {
  const EmaOptions options{.decay = 0.9, .use_ema_warmup = true};
  Accelerator accelerator({.cpu = true});
  Mlp net(1), other(1);
  auto model = accelerator.prepare(net);
  auto still = accelerator.prepare(other);
  Ema ema(model, options), expected(still, options);
  for (int step = 0; step < 9; ++step) {
    if (step == 3) net->to(torch::kCUDA);
    if (step == 6) net->to(torch::kCPU);
    {
      const torch::NoGradGuard no_grad;
      for (auto* one : {&net, &other}) {
        for (auto& parameter : (*one)->parameters()) parameter.fill_(step * step);
      }
    }
    const StepResult result(StepResult::Outcome::kApplied);
    EXPECT_EQ(ema.update(result).decay(), expected.update(result).decay()) << step;
    const auto ours = ema.apply(), theirs = expected.apply();
    EXPECT_NEAR(net->out->bias[0].item<double>(), other->out->bias[0].item<double>(), 1e-12) << step;
  }
}

/// The page's verbs with a scaled loss, a clip and averages.
TEST_F(EmaOnGpu, AStepCopiesNothingFromTheDeviceAndDoesNotWait) {
  Accelerator accelerator(scaled());
  Mlp net(1, torch::kFloat);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-3));
  Ema ema(model, {.decay = 0.99, .use_ema_warmup = true, .update_after_step = 7});
  const auto [host_x, host_y] = make_batch(64, 1, torch::kFloat);
  const at::Tensor x = host_x.to(accelerator.device()), y = host_y.to(accelerator.device());
  const auto step = [&, &model = model, &optimizer = optimizer] {
    accelerator.backward(mse(model(x), y));
    accelerator.clip_grad_norm_(model, 1.0);
    ema.update(optimizer.step());
    optimizer.zero_grad();
  };
  for (int i = 0; i < 5; ++i) step();
  auto profiler = accelerator.profile();
  for (int i = 0; i < 5; ++i) step();
  profiler.finish();
  int64_t updates = 0;
  for (const auto& event : profiler.key_averages()) {
    for (const char* wait : {"DtoH", "_local_scalar_dense", "cudaStreamSynchronize"}) {
      EXPECT_EQ(event.key.find(wait), std::string::npos) << event.key << " x " << event.count;
    }
    if (event.key == "accelerate::fused_ema_") updates += event.count;
  }
  EXPECT_EQ(updates, 5);
  EXPECT_EQ(ema.optimization_step(), 10);
  std::printf("%s\n", profiler.key_averages().table({.sort_by = "self_device_time_total", .row_limit = 25}).c_str());
}

}  // namespace
