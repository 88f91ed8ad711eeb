// Communication hooks, uneven inputs and LocalSGD over NCCL: what the CPU's tests say, with the device's streams.
#include "tests/gpu/ranks.h"

namespace {

using accelerate::Accelerator;
using accelerate::Ddp;
using accelerate::PowerSgd;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

constexpr int64_t kRanks = 2;

class CommHooks : public gpu::TwoGpus {};

/// A hook, and how many batches each rank has.
using Case = std::tuple<std::string, std::vector<int64_t>>;
class CommHooksOfBatches : public gpu::TwoGpus, public testing::WithParamInterface<Case> {};

at::Tensor numbers(at::IntArrayRef shape, double seed) {
  return torch::sin(torch::arange(c10::multiply_integers(shape), at::kDouble) * 0.37 + seed).view(shape);
}

struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", torch::nn::Linear(12, 64));
    second = register_module("second", torch::nn::Linear(64, 64));
    third = register_module("third", torch::nn::Linear(64, 3));
    to(at::kDouble);
    const torch::NoGradGuard no_grad;
    double seed = 1;
    for (at::Tensor& parameter : parameters()) parameter.copy_(numbers(parameter.sizes(), seed++) * 0.3);
  }
  at::Tensor forward(const at::Tensor& x) { return third(torch::tanh(second(torch::tanh(first(x))))); }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
};
TORCH_MODULE(Net);

Ddp options_of(const std::string& hook) {
  Ddp options{.bucket_cap_mb = 0.01, .comm_hook = hook};
  if (hook.find("sgd") != std::string::npos) {
    options.comm_state_option = PowerSgd{.matrix_approximation_rank = 3, .start_powerSGD_iter = 2};
  }
  return options;
}

/// Losses and parameters after some updates in which the ranks have `batches` each.
std::vector<at::Tensor> train(const Rank& rank, const std::string& hook, const std::vector<int64_t>& batches,
                              c10::DeviceType device) {
  accelerate::AcceleratorOptions given{.dataloader_config = accelerate::DataLoaderConfiguration{.even_batches = false},
                                       .strategy = options_of(hook)};
  if (device == at::kCPU) given.cpu = true;
  Accelerator accelerator(rank.options(given));
  Net net;
  torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.1));
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  auto join = accelerator.join_uneven_inputs({model});
  for (int64_t batch = 0; batch < batches[static_cast<size_t>(rank.rank())]; ++batch) {
    const double seed = 1.0 + 3.0 * static_cast<double>(batch) + static_cast<double>(rank.rank());
    accelerator.backward(model(numbers({5, 12}, seed).to(accelerator.device())).pow(2).mean());
    optimizer.step();
    optimizer.zero_grad();
  }
  join.finish();
  std::vector<at::Tensor> values;
  for (const at::Tensor& parameter : model->parameters()) values.push_back(parameter.detach().cpu());
  return values;
}

/// The same kernels in another order: float64 all the same, but a half may round to its neighbour.
TEST_P(CommHooksOfBatches, ComputeWhatTheyDoOnTheCpu) {
  const auto& [hook, batches] = GetParam();
  run_ranks(kRanks, [&, &hook = hook, &batches = batches](const Rank& rank) {
    const auto on_gpu = train(rank, hook, batches, at::kCUDA);
    const auto on_cpu = train(rank, hook, batches, at::kCPU);
    for (size_t i = 0; i < on_gpu.size(); ++i) {
      EXPECT_TRUE(torch::allclose(on_gpu[i], on_cpu[i], 1e-3, 1e-4)) << hook << " parameter " << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Uneven, CommHooksOfBatches,
                         testing::Combine(testing::Values("no", "fp16", "bf16", "power_sgd", "batched_power_sgd"),
                                          testing::Values(std::vector<int64_t>{6, 6}, std::vector<int64_t>{3, 6},
                                                          std::vector<int64_t>{6, 0})),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name = std::get<0>(info.param);
                           for (const int64_t batches : std::get<1>(info.param)) name += "_" + std::to_string(batches);
                           return name;
                         });

TEST_F(CommHooks, LocalSGDAveragesOnTheDevice) {
  run_ranks(kRanks, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Net());
    accelerate::LocalSGD local(accelerator, model, {.local_sgd_steps = 1});
    {
      const torch::NoGradGuard no_grad;
      model->third->bias.fill_(static_cast<double>(rank.rank()));
    }
    local.step();
    EXPECT_TRUE(torch::equal(model->third->bias.detach().cpu(), torch::full({3}, 0.5, at::kDouble)));
    local.finish();
  });
}

}  // namespace
