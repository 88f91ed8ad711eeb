// The update operators on a GPU: against the same operators on the CPU, against LibTorch's fused ones, and what a trace
// shows of a step with a scaled loss.
#include <ATen/ATen.h>

#include <cstdio>
#include <limits>
#include <string>

#include "accelerate/optim/kernels/operators.h"
#include "accelerate/optim/update.h"
#include "tests/gpu/gpu.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::Accelerator;
using accelerate::StepResult;
using accelerate::internal::Counters;
using accelerate::internal::Verdict;
using kernels::Decay;
using kernels::Momentum;
using training::make_batch;
using training::Mlp;
using training::mse;
using Tensors = std::vector<at::Tensor>;

constexpr at::ScalarType kDtypes[] = {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf};

/// Empty, of one element, odd, larger than a block, transposed, channels last, and beginning in the middle of a vector;
/// more than the arguments of one kernel hold.
Tensors shapes(at::ScalarType dtype) {
  torch::manual_seed(4);
  const auto noise = [&](std::vector<int64_t> sizes) { return torch::randn(sizes, torch::kDouble).to(dtype); };
  Tensors tensors{noise({}),
                  noise({0}),
                  noise({1}),
                  noise({7}),
                  noise({33}),
                  noise({1024}),
                  noise({1025}),
                  noise({129, 65}),
                  noise({65, 129}).t(),
                  noise({300, 700}),
                  noise({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast)};
  tensors.push_back(noise({4099}).slice(0, 1));
  tensors.push_back(noise({67}).slice(0, 3));
  for (int64_t i = 0; i < 120; ++i) tensors.push_back(noise({i % 11}));
  return tensors;
}

/// On `device`, lying as they lie here, down to where a vector begins.
Tensors placed(const Tensors& tensors, c10::Device device) {
  Tensors moved;
  for (const at::Tensor& tensor : tensors) {
    const int64_t offset = tensor.numel() == 0 ? 0 : tensor.storage_offset() % 8;
    const at::Tensor memory = torch::zeros({tensor.numel() + offset}, tensor.options().device(device));
    moved.push_back(memory.as_strided(tensor.sizes(), tensor.strides(), offset).copy_(tensor));
  }
  return moved;
}

/// With parameters and state of one dtype and gradients of another one the parameters have copies of that.
struct Arrays {
  Tensors parameters, gradients, first, second, largest, copies;
  at::Tensor updates, rate;
  Verdict verdict;

  Arrays(at::ScalarType dtype, c10::Device device) : Arrays(dtype, dtype, device) {}
  Arrays(at::ScalarType dtype, at::ScalarType low, c10::Device device) {
    const auto make = [&](uint64_t seed, bool positive, bool is_low = false) {
      Tensors tensors = shapes(is_low ? low : dtype);
      torch::manual_seed(seed);
      for (at::Tensor& tensor : tensors) {
        const at::Tensor values = torch::randn(tensor.sizes(), torch::kDouble);
        tensor.copy_(positive ? values.abs() : values);
      }
      return placed(tensors, device);
    };
    parameters = make(1, false);
    gradients = make(2, false, true);
    if (low != dtype) copies = make(6, false, true);
    first = make(3, false);
    second = make(4, true);
    largest = make(5, true);
    updates = torch::full({}, 3, at::TensorOptions(torch::kLong).device(device));
    rate = torch::full({}, 0.0123, at::TensorOptions(torch::kDouble).device(device));
  }
};

const char* const kRules[] = {"adamw", "adam", "amsgrad", "sgd", "momentum", "nesterov", "damped", "lion"};

void update(const std::string& rule, Arrays& a) {
  const kernels::Clock clock{.updates = a.updates, .lr = a.rate};
  const kernels::Lists lists{a.parameters, a.gradients, a.copies};
  if (rule == "adamw") {
    kernels::fused_adam(lists, {a.first, a.second, {}}, clock, {0.9, 0.999, 0.1, 1e-8, Decay::kDecoupled}, a.verdict);
  } else if (rule == "adam") {
    kernels::fused_adam(lists, {a.first, a.second, {}}, clock, {0.9, 0.999, 0.1, 1e-8, Decay::kGradient}, a.verdict);
  } else if (rule == "amsgrad") {
    kernels::fused_adam(lists, {a.first, a.second, a.largest}, clock, {0.9, 0.99, 0, 1e-8, Decay::kDecoupled},
                        a.verdict);
  } else if (rule == "sgd") {
    kernels::fused_sgd(lists, {}, {.updates = {}, .lr = a.rate}, {0, 0, 0.1, Momentum::kPlain}, a.verdict);
  } else if (rule == "momentum") {
    kernels::fused_sgd(lists, a.first, {.updates = {}, .lr = a.rate}, {0.9, 0, 0.1, Momentum::kPlain}, a.verdict);
  } else if (rule == "nesterov") {
    kernels::fused_sgd(lists, a.first, {.updates = {}, .lr = a.rate}, {0.9, 0, 0, Momentum::kNesterov}, a.verdict);
  } else if (rule == "damped") {
    kernels::fused_sgd(lists, a.first, clock, {0.9, 0.4, 0, Momentum::kPlain}, a.verdict);
  } else {
    kernels::fused_lion(lists, a.first, a.rate, {0.9, 0.99, 0.1}, a.verdict);
  }
}

struct Difference {
  double largest = 0;
  int64_t unequal = 0, elements = 0;
};
Difference compare(const Tensors& ours, const Tensors& theirs) {
  Difference difference;
  for (size_t i = 0; i < ours.size(); ++i) {
    if (ours[i].numel() == 0) continue;
    const at::Tensor a = ours[i].cpu().to(torch::kDouble), b = theirs[i].cpu().to(torch::kDouble);
    difference.largest = std::max(difference.largest, ((a - b).abs() / (1 + b.abs())).max().item<double>());
    difference.unequal += (a != b).sum().item<int64_t>();
    difference.elements += a.numel();
  }
  return difference;
}

/// Both devices round alike; the power of a decay may differ in its last bit, and with it the step.
double rounding(at::ScalarType dtype) {
  if (dtype == torch::kDouble) return 1e-15;
  return dtype == torch::kFloat ? 2e-7 : dtype == torch::kHalf ? 1e-3 : 1e-2;
}

class TailOnGpu : public gpu::OneGpu {};

TEST_F(TailOnGpu, UpdatesAreThoseOfTheCpu) {
  const c10::Device gpu(torch::kCUDA, 0);
  int64_t unequal = 0, elements = 0;
  std::vector<std::pair<at::ScalarType, at::ScalarType>> kinds{{torch::kFloat, torch::kBFloat16},
                                                               {torch::kFloat, torch::kHalf}};
  for (const at::ScalarType dtype : kDtypes) kinds.emplace_back(dtype, dtype);
  for (const auto& [dtype, low] : kinds) {
    for (const std::string rule : kRules) {
      for (const int amended : {0, 1, 2}) {
        SCOPED_TRACE(rule + " of " + c10::toString(dtype) + " by " + c10::toString(low) + " amended " +
                     std::to_string(amended));
        Arrays ours(dtype, low, gpu), theirs(dtype, low, torch::kCPU);
        for (Arrays* arrays : {&ours, &theirs}) {
          const auto on = at::TensorOptions(torch::kFloat).device(arrays->rate.device());
          if (amended > 0) arrays->verdict = {.factor = torch::full({1}, 0.37, on), .skip = torch::zeros({1}, on)};
          if (amended == 2) arrays->verdict.skip.fill_(std::numeric_limits<float>::infinity());
          for (int step = 0; step < 2; ++step) update(rule, *arrays);
        }
        for (const auto array : {&Arrays::parameters, &Arrays::gradients, &Arrays::first, &Arrays::second,
                                 &Arrays::largest, &Arrays::copies}) {
          const Difference difference = compare(ours.*array, theirs.*array);
          const bool is_low = array == &Arrays::copies || array == &Arrays::gradients;
          EXPECT_LE(difference.largest, rounding(is_low ? low : dtype))
              << (array == &Arrays::parameters ? "parameters" : "state");
          unequal += difference.unequal;
          elements += difference.elements;
        }
        EXPECT_EQ(ours.updates.item<int64_t>(), theirs.updates.item<int64_t>());
      }
    }
  }
  std::printf("update operators, GPU and CPU: %lld of %lld numbers differ\n", static_cast<long long>(unequal),
              static_cast<long long>(elements));
}

/// Their second moments and corrections have 1 - beta2 in float32, which is off by 1e-5 for 0.999: updates are off by
/// half of that, and the largest of those here is about 1.
TEST_F(TailOnGpu, UpdatesAreThoseOfLibTorchsFusedKernels) {
  const c10::Device gpu(torch::kCUDA, 0);
  for (const at::ScalarType dtype : kDtypes) {
    for (const std::string rule : {"adamw", "adam", "amsgrad", "sgd", "momentum", "nesterov"}) {
      SCOPED_TRACE(rule + " of " + c10::toString(dtype));
      Arrays ours(dtype, gpu), theirs(dtype, gpu);
      const Tensors steps(theirs.parameters.size(), torch::full({}, 4, at::TensorOptions(torch::kFloat).device(gpu)));
      update(rule, ours);
      if (rule == "adamw") {
        at::_fused_adamw_(theirs.parameters, theirs.gradients, theirs.first, theirs.second, {}, steps, 0.0123, 0.9,
                          0.999, 0.1, 1e-8, false, false);
      } else if (rule == "adam") {
        at::_fused_adam_(theirs.parameters, theirs.gradients, theirs.first, theirs.second, {}, steps, 0.0123, 0.9,
                         0.999, 0.1, 1e-8, false, false);
      } else if (rule == "amsgrad") {
        at::_fused_adamw_(theirs.parameters, theirs.gradients, theirs.first, theirs.second, theirs.largest, steps,
                          0.0123, 0.9, 0.99, 0, 1e-8, true, false);
      } else {
        const Tensors buffers = rule == "sgd" ? Tensors() : theirs.first;
        at::_fused_sgd_(theirs.parameters, theirs.gradients, buffers, rule == "nesterov" ? 0 : 0.1,
                        rule == "sgd" ? 0 : 0.9, 0.0123, 0, rule == "nesterov", false, false);
      }
      const double tolerance = std::max(rounding(dtype), dtype == torch::kDouble ? 1e-14 : 6e-6);
      const Difference parameters = compare(ours.parameters, theirs.parameters);
      EXPECT_LE(parameters.largest, tolerance);
      EXPECT_LE(compare(ours.first, theirs.first).largest, tolerance);
      EXPECT_LE(compare(ours.second, theirs.second).largest, std::max(tolerance, dtype == torch::kDouble ? 0 : 2e-5));
      std::printf("%s of %s against LibTorch's: %lld of %lld parameters differ, by %g at most\n", rule.c_str(),
                  c10::toString(dtype), static_cast<long long>(parameters.unequal),
                  static_cast<long long>(parameters.elements), parameters.largest);
    }
  }
}

TEST_F(TailOnGpu, NormsAreTrueTheSameEveryTimeAndSeeWhatIsNotFinite) {
  const c10::Device gpu(torch::kCUDA, 0);
  for (const at::ScalarType dtype : kDtypes) {
    SCOPED_TRACE(c10::toString(dtype));
    Arrays arrays(dtype, gpu);
    double sum = 0;
    for (const at::Tensor& gradient : arrays.gradients) {
      sum += gradient.to(torch::kDouble).mul(0.25).square().sum().item<double>();
    }
    const at::Tensor factor = torch::full({1}, 0.25, at::TensorOptions(torch::kFloat).device(gpu));
    const kernels::Norm once = kernels::gradient_norm(arrays.gradients, factor);
    EXPECT_NEAR(once.norm.item<double>(), std::sqrt(sum), 1e-5 * std::sqrt(sum));
    EXPECT_EQ(once.found.item<float>(), 0);
    for (int time = 0; time < 5; ++time) {
      EXPECT_EQ(kernels::gradient_norm(arrays.gradients, factor).norm.item<double>(), once.norm.item<double>());
    }
    for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
      for (const size_t where : {size_t{0}, size_t{9}, arrays.gradients.size() - 1}) {
        at::Tensor flat = arrays.gradients[where].numel() == 0 ? arrays.gradients[9] : arrays.gradients[where];
        const at::Tensor kept = flat.clone();
        flat.view(-1)[-1] = bad;
        EXPECT_EQ(kernels::gradient_norm(arrays.gradients).found.item<float>(), 1) << where;
        flat.copy_(kept);
      }
    }
  }
}

TEST_F(TailOnGpu, AClipIsThatOfTheCpu) {
  for (const double max_norm : {1e-2, 1.0, 1e9}) {
    Arrays ours(torch::kFloat, c10::Device(torch::kCUDA, 0)), theirs(torch::kFloat, torch::kCPU);
    std::vector<at::Tensor> norms;
    for (Arrays* arrays : {&ours, &theirs}) {
      for (size_t i = 0; i < arrays->parameters.size(); ++i) {
        arrays->parameters[i].mutable_grad() = arrays->gradients[i];
      }
      norms.push_back(accelerate::internal::clip_grad_norm(arrays->parameters, {.max_norm = max_norm}));
    }
    EXPECT_NEAR(norms[0].item<double>(), norms[1].item<double>(), 1e-5 * norms[1].item<double>());
    EXPECT_LE(compare(ours.gradients, theirs.gradients).largest, 2e-6) << max_norm;
  }
}

accelerate::AcceleratorOptions scaled() {
  return {.mixed_precision = "fp16",
          .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
          .scaler_handler = accelerate::GradScalerKwargs{.init_scale = 256, .growth_interval = 2}};
}

/// Overflows now and then: the device leaves updates out, and everything follows as if the host had.
TEST_F(TailOnGpu, ScaledTrainingIsThatOfTheHostWithoutTheUpdatesLeftOut) {
  for (const bool clips : {false, true}) {
    Accelerator accelerator(scaled());
    Mlp net(1), plain(1);
    auto [model, optimizer, scheduler] =
        accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.1), accelerate::linear({.total_steps = 40}));
    torch::optim::AdamW stock(plain->parameters(), 0.1);
    accelerate::Scheduler schedule(stock, accelerate::linear({.total_steps = 40}));
    for (int step = 0; step < 20; ++step) {
      const auto [x, y] = make_batch(5, static_cast<uint64_t>(step));
      const bool bad = step % 5 == 2;
      optimizer.zero_grad();
      accelerator.backward(mse(model(x.to(accelerator.device())), y.to(accelerator.device())));
      if (bad) net->out->bias.mutable_grad()[1] = std::numeric_limits<double>::infinity();
      if (clips) accelerator.clip_grad_norm_(model, 0.5);
      const StepResult result = optimizer.step();
      scheduler.step();
      if (step % 3 == 0) {
        EXPECT_EQ(result.skipped(), bad) << step;
      }
      if (step % 7 == 0) {
        EXPECT_EQ(accelerator.optimizer_step_was_skipped(), bad) << step;
      }
      if (bad) continue;
      plain->zero_grad();
      mse(plain(x), y).backward();
      if (clips) accelerate::internal::clip_grad_norm(plain->parameters(), {.max_norm = 0.5});
      stock.step();
      schedule.step();
      if (step % 4 == 0) {
        EXPECT_EQ(scheduler.get_last_lr(), schedule.get_last_lr()) << step;
      }
    }
    EXPECT_EQ(scheduler.get_last_lr(), schedule.get_last_lr());
    Tensors ours;
    for (const at::Tensor& parameter : net->parameters()) ours.push_back(parameter.detach().cpu());
    EXPECT_LT(training::distance(ours, training::copy_of(plain->parameters())), 1e-8);
    const auto& state = static_cast<torch::optim::Optimizer&>(optimizer).state();
    for (const auto& [key, of_parameter] : state) {
      EXPECT_EQ(static_cast<const torch::optim::AdamWParamState&>(*of_parameter).step(), 16);
    }
  }
}

/// What a step of the loop copies from the device, as its trace says; the page's verbs with a scaled loss.
TEST_F(TailOnGpu, AStepCopiesNothingFromTheDevice) {
  Accelerator accelerator(scaled());
  Mlp net(1, torch::kFloat);
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-3), accelerate::linear({.total_steps = 100}));
  const auto [host_x, host_y] = make_batch(64, 1, torch::kFloat);
  const at::Tensor x = host_x.to(accelerator.device()), y = host_y.to(accelerator.device());
  const auto step = [&, &model = model, &optimizer = optimizer, &scheduler = scheduler] {
    accelerator.backward(mse(model(x), y));
    accelerator.clip_grad_norm_(model, 1.0);
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
  };
  for (int i = 0; i < 5; ++i) step();
  auto profiler = accelerator.profile();
  for (int i = 0; i < 5; ++i) step();
  profiler.finish();
  int64_t updates = 0;
  for (const auto& event : profiler.key_averages()) {
    EXPECT_EQ(event.key.find("DtoH"), std::string::npos) << event.key << " x " << event.count;
    EXPECT_EQ(event.key.find("_local_scalar_dense"), std::string::npos) << event.key << " x " << event.count;
    EXPECT_EQ(event.key.find("cudaStreamSynchronize"), std::string::npos) << event.key << " x " << event.count;
    if (event.key == "accelerate::fused_adamw_") updates += event.count;
  }
  EXPECT_EQ(updates, 5);
  std::printf("%s\n", profiler.key_averages().table({.sort_by = "self_device_time_total", .row_limit = 25}).c_str());
}

/// The host learns of an outcome when the device has written it, not when it has nothing more to do.
TEST_F(TailOnGpu, AskingForAnOutcomeWaitsForItsUpdateAlone) {
  const auto on = at::TensorOptions(torch::kLong).device(torch::kCUDA);
  const at::Tensor number = torch::zeros({}, on),
                   outcomes = torch::zeros({2}, at::TensorOptions(torch::kLong).pinned_memory(true));
  const at::Tensor skip = torch::ones({1}, on.dtype(torch::kFloat)),
                   a = torch::rand({8192, 8192}, on.dtype(torch::kFloat));
  for (int update = 1; update <= 3; ++update) {
    skip.fill_(update == 2 ? 0 : 1);
    kernels::publish_update(number, outcomes, skip);
    at::Tensor b = a;
    for (int i = 0; i < 20; ++i) b = torch::mm(b, a);
    EXPECT_EQ(kernels::await_update(number, outcomes, update), update != 2);
    EXPECT_FALSE(kernels::peek_update(outcomes, update + 1).has_value());
  }
}

}  // namespace
