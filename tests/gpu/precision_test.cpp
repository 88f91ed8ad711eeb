// Parameters of bfloat16 on a GPU: the chances are those of the CPU, updates are, and layers whose kernels are choosy
// train.
#include <ATen/ATen.h>

#include <cstdio>
#include <functional>
#include <string>

#include "accelerate/optim/kernels/operators.h"
#include "tests/gpu/gpu.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::Accelerator;
using Tensors = std::vector<at::Tensor>;
constexpr auto kLow = torch::kBFloat16;

/// Empty, odd, larger than a block, transposed, beginning in the middle of a vector; more than one launch takes.
Tensors shapes() {
  torch::manual_seed(4);
  Tensors tensors{torch::randn({}),
                  torch::randn({0}),
                  torch::randn({7}),
                  torch::randn({1025}),
                  torch::randn({65, 129}).t(),
                  torch::randn({300, 700}),
                  torch::randn({70'001}),
                  torch::randn({4099}).slice(0, 1)};
  for (int64_t i = 0; i < 120; ++i) tensors.push_back(torch::randn({i % 11}));
  return tensors;
}

/// As they lie here, also where a vector begins.
Tensors on(c10::DeviceType device, const Tensors& tensors, at::ScalarType dtype) {
  Tensors moved;
  for (const at::Tensor& tensor : tensors) {
    const int64_t offset = tensor.numel() == 0 ? 0 : tensor.storage_offset() % 8;
    const at::Tensor memory = torch::zeros({tensor.numel() + offset}, tensor.options().device(device).dtype(dtype));
    moved.push_back(memory.as_strided(tensor.sizes(), tensor.strides(), offset).copy_(tensor));
  }
  return moved;
}

at::Tensor draws(c10::DeviceType device) { return torch::tensor({int64_t{42}, int64_t{3}}, torch::kLong).to(device); }

/// Elements that differ, of how many.
std::pair<int64_t, int64_t> unequal(const Tensors& a, const Tensors& b) {
  std::pair<int64_t, int64_t> found{0, 0};
  for (size_t i = 0; i < a.size(); ++i) {
    found.first += (a[i].cpu() != b[i].cpu()).sum().item<int64_t>();
    found.second += a[i].numel();
  }
  return found;
}

class LowParametersOnGpu : public gpu::OneGpu {};

TEST_F(LowParametersOnGpu, ChancesAreThoseOfTheCpu) {
  const auto round = [](c10::DeviceType device) {
    const Tensors wide = on(device, shapes(), torch::kFloat);
    Tensors low = on(device, shapes(), kLow);
    const at::Tensor drawn = draws(device);
    kernels::round_stochastically(low, wide, drawn);
    EXPECT_EQ(drawn[1].item<int64_t>(), 4);
    return low;
  };
  const auto [different, elements] = unequal(round(torch::kCUDA), round(torch::kCPU));
  EXPECT_EQ(different, 0) << "of " << elements;
}

// Multiplications and roots may round differently on both, and then the chance may fall the other way.
TEST_F(LowParametersOnGpu, UpdatesByChanceAreThoseOfTheCpu) {
  using Rule = std::function<void(const kernels::Lists&, const Tensors&, const Tensors&, const kernels::Clock&)>;
  const accelerate::internal::Verdict verdict;
  const std::vector<std::pair<std::string, Rule>> rules{
      {"adamw",
       [&](const auto& lists, const Tensors& a, const Tensors& b, const auto& clock) {
         kernels::fused_adam(lists, {a, b, {}}, clock, {0.9, 0.999, 0.1, 1e-8, kernels::Decay::kDecoupled}, verdict);
       }},
      {"sgd",
       [&](const auto& lists, const Tensors&, const Tensors&, const auto& clock) {
         kernels::fused_sgd(lists, {}, {{}, clock.lr}, {0, 0, 0.1, kernels::Momentum::kPlain}, verdict);
       }},
      {"momentum",
       [&](const auto& lists, const Tensors& a, const Tensors&, const auto& clock) {
         kernels::fused_sgd(lists, a, {{}, clock.lr}, {0.9, 0, 0.1, kernels::Momentum::kNesterov}, verdict);
       }},
      {"lion", [&](const auto& lists, const Tensors& a, const Tensors&, const auto& clock) {
         kernels::fused_lion(lists, a, clock.lr, {0.9, 0.99, 0.1}, verdict);
       }}};
  for (const auto& [name, rule] : rules) {
    const auto run = [&, &rule = rule](c10::DeviceType device) {
      Tensors parameters = on(device, shapes(), kLow), gradients = on(device, shapes(), kLow);
      const Tensors first = on(device, shapes(), torch::kFloat);
      Tensors second = on(device, shapes(), torch::kFloat);
      for (at::Tensor& tensor : second) tensor.abs_();
      const kernels::Clock clock{torch::full({}, 3, at::TensorOptions(torch::kLong).device(device)),
                                 torch::full({}, 0.0123, at::TensorOptions(torch::kDouble).device(device))};
      const at::Tensor drawn = draws(device);
      for (int step = 0; step < 2; ++step) rule({parameters, gradients, {}, drawn}, first, second, clock);
      EXPECT_EQ(drawn[1].item<int64_t>(), 5);
      return parameters;
    };
    const auto [different, elements] = unequal(run(torch::kCUDA), run(torch::kCPU));
    std::printf("%s: %ld of %ld elements differ from the CPU's\n", name.c_str(), static_cast<long>(different),
                static_cast<long>(elements));
    EXPECT_LE(different, elements / 1000) << name;
  }
}

/// Convolutions with batch norms, a recurrent layer, attention.
struct MixtureImpl : torch::nn::Module {
  MixtureImpl() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1).bias(false)));
    norm = register_module("norm", torch::nn::BatchNorm2d(8));
    recurrent = register_module("recurrent", torch::nn::LSTM(torch::nn::LSTMOptions(64, 32).batch_first(true)));
    between = register_module("between", torch::nn::LayerNorm(torch::nn::LayerNormOptions({32})));
    head = register_module("head", torch::nn::Linear(32, 4));
  }
  at::Tensor forward(const at::Tensor& images) {
    const auto h = torch::relu(norm(conv(images)));
    const auto sequence = std::get<0>(recurrent(h.flatten(2)));
    const auto seen = between(sequence).unsqueeze(1);
    const auto attended = at::scaled_dot_product_attention(seen, seen, seen);
    return head(attended.squeeze(1).mean(1));
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::nn::LSTM recurrent{nullptr};
  torch::nn::LayerNorm between{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Mixture);

TEST_F(LowParametersOnGpu, LayersOfAllKindsTrain) {
  for (const char* precision : {"bf16_master", "bf16_stochastic"}) {
    SCOPED_TRACE(precision);
    Accelerator accelerator({.mixed_precision = precision});
    torch::manual_seed(2);
    Mixture net;
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 3e-3));
    const auto x = torch::randn({32, 3, 8, 8}).to(accelerator.device());
    const auto y = torch::arange(32).remainder(4).to(accelerator.device());
    double first = 0, last = 0;
    for (int step = 0; step < 150; ++step) {
      const auto loss = torch::nn::functional::cross_entropy(model(x), y);
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
      optimizer.step();
      optimizer.zero_grad();
      if (step == 0) first = loss.item<double>();
      last = loss.item<double>();
    }
    std::printf("%s: loss %.4f, then %.4f\n", precision, first, last);
    EXPECT_LT(last, 0.5 * first);
    EXPECT_EQ(net->head->weight.scalar_type(), kLow);
    EXPECT_EQ(net->norm->running_mean.scalar_type(), torch::kFloat);
    const at::Tensor* master = optimizer.core()->master_of(net->head->weight);
    ASSERT_EQ(master != nullptr, std::string(precision) == "bf16_master");
    if (master != nullptr) {
      EXPECT_TRUE(torch::equal(master->to(kLow), net->head->weight));
    }
  }
}

}  // namespace
