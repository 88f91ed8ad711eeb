// Processes that get unequal numbers of batches: the update is the one that the definition gives, whatever the lengths.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::Ddp;
using accelerate::PowerSgd;
using ddp::Accelerator;
using ddp::Rank;
using ddp::Tensors;

struct Run {
  std::vector<int64_t> updates;  ///< of each rank
  int64_t accumulation = 1;
  Ddp options;
  int64_t ranks() const { return static_cast<int64_t>(updates.size()); }
};

torch::optim::SGD sgd_of(const ddp::Mlp& net) {
  return torch::optim::SGD(net->parameters(), torch::optim::SGDOptions(0.2).momentum(0.5));
}

/// Those that still have data add their gradients, all are counted in the mean, and the last one's parameters stay.
Tensors definition(const Run& run) {
  ddp::Mlp net(1);
  torch::optim::SGD sgd = sgd_of(net);
  const int64_t most = *std::max_element(run.updates.begin(), run.updates.end());
  for (int64_t update = 0; update < most; ++update) {
    net->zero_grad();
    for (int64_t rank = 0; rank < run.ranks(); ++rank) {
      if (update >= run.updates[static_cast<size_t>(rank)]) continue;
      for (int64_t micro = 0; micro < run.accumulation; ++micro) {
        const at::Tensor loss = ddp::mean_square(net->forward(ddp::inputs(rank, update * run.accumulation + micro)));
        (loss / static_cast<double>(run.accumulation * run.ranks())).backward();
      }
    }
    sgd.step();
  }
  return ddp::values(*net);
}

std::vector<Tensors> joined(const Run& run, int64_t rounds = 1) {
  return ddp::on_ranks<Tensors>(run.ranks(), [&](const Rank& rank) {
    Accelerator accelerator(
        rank.options({.gradient_accumulation_steps = run.accumulation,
                      .dataloader_config = accelerate::DataLoaderConfiguration{.even_batches = false},
                      .strategy = run.options}));
    ddp::Mlp net(1.0 + static_cast<double>(rank.rank()));  // rank 0's count
    torch::optim::SGD sgd = sgd_of(net);
    auto model = accelerator.prepare(net);
    auto optimizer = accelerator.prepare(sgd);
    for (int64_t round = 0; round < rounds; ++round) {
      auto join = accelerator.join_uneven_inputs({model});
      const int64_t batches = run.updates[static_cast<size_t>(rank.rank())] * run.accumulation;
      for (int64_t batch = 0; batch < batches; ++batch) {
        auto window = accelerator.accumulate(model);
        accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
        optimizer.step();
        optimizer.zero_grad();
      }
      join.finish();
    }
    return ddp::values(*model);
  });
}

Run arbitrary_run() {
  Run run;
  // Not inRange: it draws its lowest number alone while cases are small.
  run.updates = *rc::gen::container<std::vector<int64_t>>(*rc::gen::element<size_t>(2, 3, 4),
                                                          rc::gen::element<int64_t>(0, 1, 2, 3, 4));
  run.accumulation = *rc::gen::inRange<int64_t>(1, 4);
  run.options.bucket_cap_mb = *rc::gen::element(25.0, 0.0001);
  run.options.find_unused_parameters = *rc::gen::arbitrary<bool>();
  run.options.gradient_as_bucket_view = *rc::gen::arbitrary<bool>();
  return run;
}

RC_GTEST_PROP(JoinUnevenInputs, UpdatesAreTheDefinitions, ()) {
  const Run run = arbitrary_run();
  const Tensors expected = definition(run);
  for (const Tensors& got : joined(run)) RC_ASSERT(ddp::distance(got, expected) < ddp::kRounding);
}

/// What has to be the same on every rank (buckets, what hooks remember) is so after the first loop.
RC_GTEST_PROP(JoinUnevenInputs, RanksStayTogetherUnderEveryHook, ()) {
  Run run = arbitrary_run();
  run.options.gradient_as_bucket_view = false;
  run.options.comm_hook = *rc::gen::element<std::string>("no", "fp16", "bf16", "power_sgd", "batched_power_sgd");
  if (run.options.comm_hook.find("sgd") != std::string::npos) {
    run.options.comm_state_option = PowerSgd{.start_powerSGD_iter = 2, .warm_start = *rc::gen::arbitrary<bool>()};
  }
  const std::vector<Tensors> all = joined(run, /*rounds=*/3);
  for (const Tensors& got : all) {
    RC_ASSERT(ddp::equal(got, all.front()));
    for (const at::Tensor& value : got) RC_ASSERT(value.isfinite().all().item<bool>());
  }
}

}  // namespace
