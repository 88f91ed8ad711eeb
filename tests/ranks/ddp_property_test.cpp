// The update of several processes is the one of a single process with their batches concatenated.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/ranks/ddp_support.h"

namespace {

using ddp::Accelerator;
using ddp::Rank;
using ddp::Tensors;

struct Layout {
  std::vector<int64_t> widths;  ///< of the layers, the input first
  bool norm = false;            ///< a layer norm behind each layer
  bool bias = true;
};

struct NetImpl : torch::nn::Module {
  NetImpl(const Layout& layout, double seed) {
    for (size_t i = 0; i + 1 < layout.widths.size(); ++i) {
      const auto options = torch::nn::LinearOptions(layout.widths[i], layout.widths[i + 1]).bias(layout.bias);
      body->push_back(torch::nn::Linear(options));
      if (layout.norm) body->push_back(torch::nn::LayerNorm(torch::nn::LayerNormOptions({layout.widths[i + 1]})));
      body->push_back(torch::nn::Tanh());
    }
    register_module("body", body);
    ddp::fill(*this, seed);
  }
  at::Tensor forward(const at::Tensor& x) { return body->forward(x); }
  torch::nn::Sequential body;
};
TORCH_MODULE(Net);

struct Run {
  Layout layout;
  int64_t ranks = 1;
  int64_t accumulation = 1;
  int64_t batches = 1;  ///< of a pass; the last window may be short
  int64_t rows = 1;
  bool adam = false;
  accelerate::Ddp options;
};

at::Tensor batch_of(const Run& run, int64_t rank, int64_t batch) {
  return ddp::inputs(rank, batch, run.rows, run.layout.widths.front());
}

/// Ends windows where a loader of `run.batches` would.
bool ends_window(const Run& run, int64_t batch) {
  return (batch + 1) % run.accumulation == 0 || batch + 1 == run.batches;
}

std::unique_ptr<torch::optim::Optimizer> optimizer_of(const Run& run, const Tensors& parameters) {
  if (run.adam) return std::make_unique<torch::optim::AdamW>(parameters, torch::optim::AdamWOptions(1e-2).eps(1e-3));
  return std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.1).momentum(0.9));
}

/// LibTorch alone.
Tensors one_process(const Run& run) {
  Net net(run.layout, 1);
  const auto optimizer = optimizer_of(run, net->parameters());
  for (int64_t batch = 0; batch < run.batches; ++batch) {
    Tensors parts;
    for (int64_t rank = 0; rank < run.ranks; ++rank) parts.push_back(batch_of(run, rank, batch));
    (ddp::mean_square(net(torch::cat(parts))) / run.accumulation).backward();
    if (!ends_window(run, batch)) continue;
    optimizer->step();
    optimizer->zero_grad();
  }
  return ddp::values(*net);
}

Tensors one_rank(const Run& run, const Rank& rank) {
  Accelerator accelerator(rank.options({.gradient_accumulation_steps = run.accumulation, .strategy = run.options}));
  Net net(run.layout, 1 + static_cast<double>(rank.rank()));  // only rank 0's numbers count
  const std::shared_ptr<torch::optim::Optimizer> stock = optimizer_of(run, net->parameters());
  auto [model, optimizer] = accelerator.prepare(net, stock);
  for (int64_t batch = 0; batch < run.batches; ++batch) {
    auto window = accelerator.accumulate(model);
    // A short last window is ended by hand here; loaders do it by themselves.
    const bool reduced = (batch + 1) % run.accumulation == 0;
    const at::Tensor loss = ddp::mean_square(model(batch_of(run, rank.rank(), batch)));
    if (!reduced && ends_window(run, batch)) {
      const auto now = accelerator.trigger_sync_in_backward(model);
      accelerator.backward(loss);
      static_cast<torch::optim::Optimizer&>(optimizer).step();
      continue;
    }
    accelerator.backward(loss);
    optimizer.step();
    optimizer.zero_grad();
  }
  return ddp::values(*net);
}

// float64: sums of at most 16 terms in another order, through at most eight updates of networks of size one.
RC_GTEST_PROP(DdpProperty, TheUpdateIsThatOfOneProcessWithAllBatches, ()) {
  Run run{.ranks = *rc::gen::inRange<int64_t>(1, 5),
          .accumulation = *rc::gen::inRange<int64_t>(1, 5),
          .batches = *rc::gen::inRange<int64_t>(1, 9),
          .rows = *rc::gen::inRange<int64_t>(1, 4),
          .adam = *rc::gen::arbitrary<bool>()};
  run.layout = {.widths = *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange<size_t>(2, 5),
                                                                    rc::gen::inRange<int64_t>(1, 9)),
                .norm = *rc::gen::arbitrary<bool>(),
                .bias = *rc::gen::arbitrary<bool>()};
  // Down to buckets of one parameter each.
  run.options = {.bucket_cap_mb = *rc::gen::element(25.0, 1e-6, 1e-4),
                 .find_unused_parameters = *rc::gen::arbitrary<bool>(),
                 .static_graph = *rc::gen::arbitrary<bool>(),
                 .gradient_as_bucket_view = *rc::gen::arbitrary<bool>()};
  const Tensors expected = one_process(run);
  const auto backend = *rc::gen::element(std::optional<std::string>(), std::optional<std::string>("gloo"));
  const auto results =
      ddp::on_ranks<Tensors>(run.ranks, [&](const Rank& rank) { return one_rank(run, rank); }, {.backend = backend});
  for (const Tensors& result : results) {
    RC_ASSERT(ddp::distance(result, expected) < 1e-12);
    RC_ASSERT(ddp::equal(result, results.front()));
  }
}

}  // namespace
