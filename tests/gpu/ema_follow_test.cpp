// Averages that a GPU's update kernels write: those of a pass after the update, bit for bit, step by step and captured,
// and how often a step goes over the memory.
#include <ATen/ATen.h>

#include <chrono>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>

#include "accelerate/optim/ema_core.h"
#include "accelerate/optim/kernels/operators.h"
#include "accelerate/optim/lion.h"
#include "tests/gpu/gpu.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::Accelerator;
using accelerate::CudaGraph;
using accelerate::Ema;
using accelerate::StepResult;
using accelerate::internal::Verdict;
using kernels::Decay;
using kernels::EmaDecay;
using kernels::EmaRise;
using kernels::Momentum;
using Tensors = std::vector<at::Tensor>;

const c10::Device kGpu(torch::kCUDA, 0);
at::TensorOptions on_gpu(at::ScalarType dtype) { return at::TensorOptions(dtype).device(kGpu); }

class EmaFollowOnGpu : public gpu::OneGpu {};

/// Empty, of one element, odd, larger than a block, transposed, and beginning in the middle of a vector; more than the
/// arguments of one kernel hold.
Tensors shapes(at::ScalarType dtype) {
  const auto noise = [&](std::vector<int64_t> sizes) { return torch::randn(sizes, on_gpu(dtype)); };
  Tensors tensors{noise({}),     noise({0}),       noise({1}),           noise({7}),
                  noise({1025}), noise({129, 65}), noise({65, 129}).t(), noise({300, 700})};
  for (const int64_t offset : {1, 2, 3, 4}) tensors.push_back(noise({4099 + offset}).slice(0, offset));
  for (int64_t i = 0; i < 120; ++i) tensors.push_back(noise({i % 11}));
  return tensors;
}
/// With another beginning than what it is a copy of, now and then.
Tensors placed(const Tensors& tensors, at::ScalarType dtype) {
  Tensors made;
  int64_t i = 0;
  for (const at::Tensor& tensor : tensors) {
    const int64_t offset = ++i % 5 == 0 ? 1 : 0;
    const at::Tensor memory = torch::zeros({tensor.numel() + offset}, on_gpu(dtype));
    made.push_back(memory.as_strided(tensor.sizes(), tensor.strides(), offset).copy_(tensor));
  }
  return made;
}

struct Arrays {
  Tensors parameters, gradients, first, second, largest, copies, averages;
  at::Tensor updates, count, kept, draws;
};

/// Of which dtypes parameters, state and gradients are.
struct Kind {
  const char* name;
  at::ScalarType parameters, state, low;
  bool rounds = false;
};
constexpr Kind kKinds[] = {{"float32", torch::kFloat, torch::kFloat, torch::kFloat},
                           {"float64", torch::kDouble, torch::kDouble, torch::kDouble},
                           {"float16", torch::kHalf, torch::kHalf, torch::kHalf},
                           {"bfloat16", torch::kBFloat16, torch::kBFloat16, torch::kBFloat16},
                           {"float32 copied to float16", torch::kFloat, torch::kFloat, torch::kHalf},
                           {"float32 copied to bfloat16", torch::kFloat, torch::kFloat, torch::kBFloat16},
                           {"bfloat16 rounded by chance", torch::kBFloat16, torch::kFloat, torch::kBFloat16, true}};

Arrays make(const Kind& kind) {
  torch::manual_seed(3);
  const Tensors base = shapes(torch::kFloat);
  const auto noise = [&](at::ScalarType dtype) {
    Tensors made = placed(base, dtype);
    for (at::Tensor& tensor : made) tensor.normal_();
    return made;
  };
  Arrays a;
  a.parameters = noise(kind.parameters);
  a.gradients = noise(kind.low);
  a.first = noise(kind.state);
  a.second = noise(kind.state);
  a.largest = noise(kind.state);
  for (at::Tensor& tensor : a.second) tensor.abs_();
  for (at::Tensor& tensor : a.largest) tensor.abs_();
  if (kind.low != kind.parameters) a.copies = noise(kind.low);
  a.averages = noise(kind.parameters == torch::kDouble ? torch::kDouble : torch::kFloat);
  a.updates = torch::full({}, 3, on_gpu(torch::kLong));
  a.count = torch::zeros({}, on_gpu(torch::kLong));
  a.kept = torch::empty({}, on_gpu(torch::kDouble));
  if (kind.rounds) a.draws = torch::tensor({int64_t{5}, int64_t{0}}, torch::kLong).to(kGpu);
  return a;
}

const char* const kRules[] = {"adam", "adamw amsgrad", "momentum", "sgd", "lion"};
void update(size_t rule, Arrays& a, const Verdict& verdict, const kernels::Following& following) {
  const kernels::Lists lists{a.parameters, a.gradients, a.copies, a.draws, following};
  const at::Tensor rate = torch::full({}, 0.0123, on_gpu(torch::kDouble));
  if (rule == 0) {
    kernels::fused_adam(lists, {a.first, a.second, {}}, {a.updates, rate}, {0.9, 0.999, 0.1, 1e-8, Decay::kGradient},
                        verdict);
  } else if (rule == 1) {
    kernels::fused_adam(lists, {a.first, a.second, a.largest}, {a.updates, rate},
                        {0.9, 0.99, 0.1, 1e-8, Decay::kDecoupled}, verdict);
  } else if (rule == 2) {
    kernels::fused_sgd(lists, a.first, {a.updates, rate}, {0.9, 0.1, 0.1, Momentum::kNesterov}, verdict);
  } else if (rule == 3) {
    kernels::fused_sgd(lists, {}, {{}, rate}, {0, 0, 0.1, Momentum::kPlain}, verdict);
  } else {
    kernels::fused_lion(lists, a.first, rate, {0.9, 0.99, 0.1}, verdict);
  }
}

int64_t unequal(const Tensors& a, const Tensors& b) {
  int64_t differ = 0;
  for (size_t i = 0; i < a.size(); ++i) differ += (a[i] != b[i]).sum().item<int64_t>();
  return differ;
}

TEST_F(EmaFollowOnGpu, AveragesBesideAnUpdateAreThoseOfAPassAfterIt) {
  const EmaDecay decay{0.9, 0, 2, 0.75, 1, EmaRise::kWarmUp};
  for (const Kind& kind : kKinds) {
    for (size_t rule = 0; rule < std::size(kRules); ++rule) {
      SCOPED_TRACE(std::string(kind.name) + ", " + kRules[rule]);
      Arrays ours = make(kind), theirs = make(kind);
      const Tensors before = training::copy_of(ours.averages);
      Tensors given, averages, values;
      const at::Tensor none = torch::empty({0}, on_gpu(torch::kFloat));
      for (size_t i = 0; i < ours.averages.size(); ++i) {
        const bool has_one = i % 3 != 2;
        given.push_back(has_one ? ours.averages[i] : none);
        if (!has_one) continue;
        averages.push_back(theirs.averages[i]);
        values.push_back(theirs.parameters[i]);
      }
      const at::Tensor skip = torch::zeros({1}, on_gpu(torch::kFloat)), factor = torch::full_like(skip, 0.5);
      int64_t applied = 0;
      for (int step = 0; step < 7; ++step) {
        for (size_t i = 0; i < ours.gradients.size(); ++i) {
          ours.gradients[i].normal_();
          theirs.gradients[i].copy_(ours.gradients[i]);
        }
        const bool skips = step % 3 == 1;
        skip.fill_(skips ? 1 : 0);
        Verdict verdict{.factor = step > 2 ? factor : at::Tensor(), .skip = skip};
        update(rule, ours, verdict, {.averages = given, .updates = ours.count, .kept = ours.kept, .decay = decay});
        update(rule, theirs, verdict, {});
        kernels::fused_ema({averages, values}, theirs.count, decay, skip);
        applied += skips ? 0 : 1;
      }
      EXPECT_EQ(ours.count.item<int64_t>(), applied);
      EXPECT_EQ(unequal(ours.parameters, theirs.parameters), 0) << "parameters";
      EXPECT_EQ(unequal(ours.first, theirs.first), 0) << "state";
      EXPECT_EQ(unequal(ours.copies, theirs.copies), 0) << "copies";
      EXPECT_EQ(unequal(ours.averages, theirs.averages), 0) << "averages";
      EXPECT_GT(unequal(ours.averages, before), 300 * 700) << "they moved";
    }
  }
}

/// Gradients that are products of two numbers: the same, whoever runs when.
struct WeightsImpl : torch::nn::Module {
  explicit WeightsImpl(std::vector<std::vector<int64_t>> shapes) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      weights.push_back(register_parameter("weight" + std::to_string(i), torch::randn(shapes[i])));
    }
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor sum = (weights[0] * x).square().mean();
    for (size_t i = 1; i < weights.size(); ++i) sum = sum + (weights[i] * x).square().mean();
    return sum;
  }
  Tensors weights;
};
TORCH_MODULE(Weights);

enum class Follows { kByCall, kByItself };

struct Trained {
  Tensors weights, averages;
  int64_t updates = 0;
  accelerate::CudaGraphReport report;
};

Trained train(const std::string& rule, const std::string& precision, Follows follows, bool captured) {
  accelerate::AcceleratorOptions options{
      .mixed_precision = precision,
      .scaler_handler = accelerate::GradScalerKwargs{.init_scale = 1024, .growth_interval = 5},
      .log_sink = [](accelerate::LogLevel, std::string_view) {}};
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  torch::manual_seed(1);
  Weights net(std::vector<std::vector<int64_t>>{{300, 70}, {1}, {1025}, {7, 3, 5}});
  std::shared_ptr<torch::optim::Optimizer> stock;
  if (rule == "adamw") stock = std::make_shared<torch::optim::AdamW>(net->parameters(), 1e-2);
  if (rule == "lion") stock = std::make_shared<accelerate::Lion>(net->parameters(), accelerate::LionOptions(1e-3));
  if (rule == "sgd") {
    stock = std::make_shared<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  }
  auto [model, optimizer] = accelerator.prepare(net, stock);
  Ema ema(model, {.decay = 0.95, .use_ema_warmup = true, .update_after_step = 3});
  if (follows == Follows::kByItself) ema.follow(optimizer);
  for (int step = 0; step < 30; ++step) {
    at::Tensor x = torch::full({1}, 1 + 0.01 * step, on_gpu(torch::kFloat));
    if (precision == "fp16" && step % 6 == 5) x.fill_(std::numeric_limits<float>::infinity());
    accelerator.backward(model(x));
    accelerator.clip_grad_norm_(model, {.max_norm = 0.01});
    const StepResult result = optimizer.step();
    if (follows == Follows::kByCall) ema.update(result);
    optimizer.zero_grad();
  }
  Trained trained{.weights = training::copy_of(net->parameters()),
                  .averages = {},
                  .updates = ema.optimization_step(),
                  .report = accelerator.cuda_graph_report()};
  const auto averages = ema.apply();
  trained.averages = training::copy_of(net->parameters());
  return trained;
}

TEST_F(EmaFollowOnGpu, FollowingIsTheUpdateAfterEachStepBitForBitAndCaptured) {
  for (const char* rule : {"adamw", "sgd", "lion"}) {
    for (const char* precision : {"no", "bf16_master", "bf16_stochastic", "fp16"}) {
      SCOPED_TRACE(std::string(rule) + ", " + precision);
      const Trained called = train(rule, precision, Follows::kByCall, false);
      EXPECT_EQ(called.updates, precision == std::string("fp16") ? 25 : 30);
      for (const bool captured : {false, true}) {
        SCOPED_TRACE(captured ? "captured" : "step by step");
        const Trained followed = train(rule, precision, Follows::kByItself, captured);
        EXPECT_EQ(followed.updates, called.updates);
        EXPECT_EQ(unequal(followed.weights, called.weights), 0) << "weights";
        EXPECT_EQ(unequal(followed.averages, called.averages), 0) << "averages";
        EXPECT_GT(unequal(followed.averages, followed.weights), 0);
        if (!captured) continue;
        EXPECT_EQ(followed.report.fallbacks, 0) << followed.report.last_fallback;
        EXPECT_GE(followed.report.replayed, 20);
      }
    }
  }
}

/// Norm and finite check, clip, and everything else: the three passes.
TEST_F(EmaFollowOnGpu, AStepWithAClipGoesThreeTimesOverTheMemory) {
  struct Tail {
    int64_t passes = 0;
    double milliseconds = 0;
  };
  const auto measured = [](const std::string& precision, Follows follows) {
    Accelerator accelerator({.mixed_precision = precision, .log_sink = [](accelerate::LogLevel, std::string_view) {}});
    Weights net(std::vector<std::vector<int64_t>>(8, {2048, 2048}));
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-3));
    Ema ema(model, {.decay = 0.99});
    if (follows == Follows::kByItself) ema.follow(optimizer);
    const at::Tensor x = torch::ones({1}, on_gpu(torch::kFloat));
    double seconds = 0;
    const auto step = [&, &model = model, &optimizer = optimizer] {
      accelerator.backward(model(x));
      torch::cuda::synchronize();
      const auto begin = std::chrono::steady_clock::now();
      const at::Tensor norm = accelerator.clip_grad_norm_(model, {.max_norm = 1e-4});
      const StepResult result = optimizer.step();
      if (follows == Follows::kByCall) ema.update(result);
      torch::cuda::synchronize();
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      EXPECT_GT(norm.item<double>(), 1e-4) << "the clip changes something";
      optimizer.zero_grad();
    };
    for (int i = 0; i < 5; ++i) step();
    seconds = 0;
    for (int i = 0; i < 20; ++i) step();
    Tail tail{.milliseconds = seconds / 20 * 1e3};
    auto profiler = accelerator.profile();
    for (int i = 0; i < 4; ++i) step();
    profiler.finish();
    for (const auto& event : profiler.key_averages()) {
      if (event.device_type != c10::kCUDA) continue;
      for (const char* pass : {"squares", "multiply<", "multiplyI", "update<", "updateI", "follow<", "followI",
                               "multi_tensor_apply", "foreach"}) {
        if (event.key.find(pass) == std::string::npos) continue;
        tail.passes += event.count;
        std::printf("  %3lld x %s\n", static_cast<long long>(event.count), event.key.substr(0, 150).c_str());
        break;
      }
    }
    EXPECT_EQ(tail.passes % 4, 0);
    tail.passes /= 4;
    std::printf("%s, %s: %lld passes over 33.6 million parameters, %.3f ms from clip to averages\n", precision.c_str(),
                follows == Follows::kByCall ? "update()" : "follow()", static_cast<long long>(tail.passes),
                tail.milliseconds);
    return tail;
  };
  for (const char* precision : {"no", "fp16", "bf16_master", "bf16_stochastic"}) {
    SCOPED_TRACE(precision);
    EXPECT_EQ(measured(precision, Follows::kByCall).passes, 4) << "the trace is read wrongly";
    EXPECT_LE(measured(precision, Follows::kByItself).passes, 3);
  }
}

}  // namespace
