#include "tests/unit/captured_loop.h"

#include <cstdlib>
#include <iostream>

#include "accelerate/optim/update.h"

namespace captured_loop {

at::Tensor randn(at::IntArrayRef sizes) { return torch::randn(sizes).to(capturing::device()); }
at::Tensor labels_of(int64_t count) { return torch::randint(0, 4, {count}, torch::kLong).to(capturing::device()); }

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels) {
  return torch::nn::functional::cross_entropy(logits, labels);
}

void use_captured_kernels(const accelerate::Optimizer& optimizer) {
  auto options = optimizer.core()->update_options();
  options.counters = accelerate::internal::Counters::kOnDevice;
  optimizer.core()->update_with(options);
}

void page(Body& b) {
  auto window = b.accelerator.accumulate(b.model);
  auto loss = cross_entropy(b.model(b.x), b.y);
  b.accelerator.backward(loss);
  b.optimizer.step();
  b.optimizer.zero_grad();
}

std::function<void(Body&)> with(Additions add) {
  return [add = std::move(add)](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    if (add.before) add.before(b);
    auto logits = b.model(b.x);
    auto loss = cross_entropy(logits, b.y);
    if (add.loss) loss = add.loss(b, logits, loss);
    b.accelerator.backward(loss);
    if (add.after_backward) add.after_backward(b, logits, loss);
    b.optimizer.step();
    if (add.after_step) add.after_step(b, logits, loss);
    b.optimizer.zero_grad();
  };
}

Result train(const Variant& variant, bool captured, const std::function<void(Body&)>& body) {
  AcceleratorOptions options = capturing::options();
  options.gradient_accumulation_steps = variant.accumulate;
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  if (variant.mixed_precision) options.mixed_precision = *variant.mixed_precision;
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  torch::manual_seed(1);
  Net net(variant.dropout, variant.norm);
  torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  std::vector<std::pair<at::Tensor, at::Tensor>> batches;
  for (int i = 0; i < 5; ++i) {
    const auto x = randn({8, 12});
    batches.emplace_back(x, labels_of(8));
  }
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  use_captured_kernels(optimizer);
  torch::manual_seed(2);
  Result result;
  for (int64_t i = 0; i < variant.steps; ++i) {
    // Fresh tensors, as a loader gives them.
    auto x = batches[i % 5].first.clone(), y = batches[i % 5].second.clone();
    if (variant.small_batch_every > 0 && i % variant.small_batch_every == 2) {
      x = x.narrow(0, 0, 5).clone();
      y = y.narrow(0, 0, 5).clone();
    }
    Body one{accelerator, model, optimizer, i, x, y, result.log};
    body(one);
  }
  for (const auto& parameter : net->parameters()) result.parameters.push_back(parameter.detach().clone());
  for (const auto& buffer : net->buffers()) result.parameters.push_back(buffer.clone());
  result.report = accelerator.cuda_graph_report();
  return result;
}

CudaGraphReport expect_same(const Variant& variant, const std::function<void(Body&)>& body) {
  const Result usual = train(variant, false, body), captured = train(variant, true, body);
  EXPECT_EQ(usual.log, captured.log);
  EXPECT_EQ(usual.parameters.size(), captured.parameters.size());
  for (size_t i = 0; i < usual.parameters.size(); ++i) {
    EXPECT_TRUE(usual.parameters[i].equal(captured.parameters[i]))
        << "parameter " << i << " differs by " << (usual.parameters[i] - captured.parameters[i]).abs().max();
  }
  std::string refusals;
  for (const auto& reason : captured.report.not_captured) refusals += reason + "; ";
  testing::Test::RecordProperty("last_fallback", captured.report.last_fallback);
  if (std::getenv("SHOW_STEPS") != nullptr)
    std::cout << "steps " << captured.report.steps << ", captured " << captured.report.captured << ", replayed "
              << captured.report.replayed << ", fallbacks " << captured.report.fallbacks << " "
              << captured.report.last_fallback << " refused: " << refusals << "\n";
  return captured.report;
}

void expect_all_replayed(const CudaGraphReport& report, int64_t kinds) {
  EXPECT_EQ(report.captured, kinds);
  EXPECT_EQ(report.fallbacks, 0) << report.last_fallback;
  EXPECT_THAT(report.not_captured, testing::IsEmpty());
  EXPECT_GT(report.replayed, 0);
}

}  // namespace captured_loop
