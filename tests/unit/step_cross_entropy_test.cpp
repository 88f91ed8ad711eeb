// The fused cross entropy in captured steps: two operators like any other.
#include "accelerate/nn/cross_entropy.h"
#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using Options = torch::nn::functional::CrossEntropyFuncOptions;

/// The page's step with this loss.
std::function<void(Body&)> page_with(Options options) {
  return [options](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = accelerate::nn::functional::cross_entropy(b.model(b.x), b.y, options);
    if (loss.dim() > 0) loss = loss.sum();
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.log.push_back(loss.item<double>());
    b.optimizer.zero_grad();
  };
}

TEST_F(StepCapture, TheFusedCrossEntropyIsReplayed) {
  for (const char* precision : {"no", "bf16", "bf16_master"}) {
    SCOPED_TRACE(precision);
    expect_all_replayed(expect_same({.dropout = 0.2, .mixed_precision = precision}, page_with({})));
    expect_all_replayed(expect_same({.mixed_precision = precision},
                                    page_with(Options().label_smoothing(0.1).ignore_index(2).reduction(torch::kSum))));
    expect_all_replayed(expect_same({.accumulate = 2, .steps = 48, .mixed_precision = precision},
                                    page_with(Options().reduction(torch::kNone))),
                        2);
  }
}

struct HeadImpl : torch::nn::Module {
  HeadImpl() { register_module("net", net); }
  at::Tensor forward(const at::Tensor& x, const at::Tensor& labels) {
    return accelerate::nn::functional::cross_entropy(net(x), labels);
  }
  torch::nn::Linear net{12, 4};
};
TORCH_MODULE(Head);

// As language models do: bfloat16 logits never leave the model.
TEST_F(StepCapture, TheFusedCrossEntropyInsideAModelOf16BitsIsReplayed) {
  std::vector<double> losses[2];
  for (const bool captured : {false, true}) {
    AcceleratorOptions options = capturing::options();
    options.log_sink = [](accelerate::LogLevel, std::string_view) {};
    options.mixed_precision = "bf16_master";
    if (captured) options.cuda_graph = CudaGraph{};
    Accelerator accelerator(options);
    torch::manual_seed(1);
    Head net;
    torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    auto [model, optimizer] = accelerator.prepare(net, sgd);
    use_captured_kernels(optimizer);
    for (int i = 0; i < 20; ++i) {
      const auto x = randn({8, 12}), y = labels_of(8);
      auto window = accelerator.accumulate(model);
      auto loss = model(x, y);
      EXPECT_EQ(loss.scalar_type(), torch::kFloat);
      accelerator.backward(loss);
      optimizer.step();
      optimizer.zero_grad();
      losses[captured ? 1 : 0].push_back(loss.item<double>());
    }
    if (captured) expect_all_replayed(accelerator.cuda_graph_report());
  }
  EXPECT_EQ(losses[0], losses[1]);
}

}  // namespace
