// The original's test_sync.py, table by table: its model a*x + b, its 80 samples in batches of 16, two processes.
#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::DataLoaderConfiguration;
using accelerate::GradientAccumulationPlugin;
using ddp::Accelerator;
using ddp::Rank;

struct RegressionImpl : torch::nn::Module {
  RegressionImpl() {
    a = register_parameter("a", torch::zeros({1}, at::kDouble));
    b = register_parameter("b", torch::zeros({1}, at::kDouble));
  }
  at::Tensor forward(const at::Tensor& x) { return x * a + b; }
  at::Tensor a, b;
};
TORCH_MODULE(Regression);

constexpr int64_t kSamples = 80;
constexpr int64_t kBatch = 16;

at::Tensor samples_x() { return ddp::numbers({kSamples, 1}, 3); }
at::Tensor samples_y() { return 2 * samples_x() + 3 + 0.1 * ddp::numbers({kSamples, 1}, 7); }

auto make_loader(int64_t batch_size = kBatch) {
  return accelerate::DataLoader(accelerate::TensorDataset(samples_x(), samples_y()), {.batch_size = batch_size});
}

at::Tensor mse(const at::Tensor& output, const at::Tensor& target) {
  return torch::nn::functional::mse_loss(output, target);
}

bool same_gradients(const RegressionImpl& net, const RegressionImpl& reference) {
  const auto near = [](const at::Tensor& x, const at::Tensor& y) {
    return std::abs((x.grad() - y.grad()).item<double>()) < 1e-12;
  };
  return near(net.a, reference.a) && near(net.b, reference.b);
}

/// Adds the gradient of the batches of all ranks to the reference's.
void reference_backward(const Accelerator& accelerator, Regression& reference, const at::Tensor& x, const at::Tensor& y,
                        double divisor) {
  const auto all_x = accelerator.gather(x), all_y = accelerator.gather(y);
  (mse(reference(all_x), all_y) / divisor).backward();
}

// test_noop_sync: without distribution no_sync does nothing.
TEST(TestSync, NoopSync) {
  Accelerator accelerator;
  Regression reference;
  auto [model, loader] = accelerator.prepare(Regression(), make_loader());
  int64_t iteration = 0;
  for (auto& [x, y] : loader) {
    reference_backward(accelerator, reference, x, y, 1);
    if (iteration % 2 == 0) {
      const auto local = accelerator.no_sync(model);
      accelerator.backward(mse(model(x), y));
    } else {
      accelerator.backward(mse(model(x), y));
    }
    EXPECT_TRUE(same_gradients(*model, *reference)) << iteration;
    if (++iteration == 3) break;
  }
}

// test_distributed_sync: gradients differ on the iterations under no_sync and match on the one that averages.
TEST(TestSync, DistributedSync) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Regression reference;
    auto [model, loader] = accelerator.prepare(Regression(), make_loader());
    int64_t iteration = 0;
    for (auto& [x, y] : loader) {
      reference_backward(accelerator, reference, x, y, 1);
      if (iteration % 2 == 0) {
        const auto local = accelerator.no_sync(model);
        accelerator.backward(mse(model(x), y));
      } else {
        accelerator.backward(mse(model(x), y));
      }
      EXPECT_EQ(same_gradients(*model, *reference), iteration % 2 == 1) << iteration;
      if (++iteration == 3) break;
    }
  });
}

// test_distributed_sync_multiple_fwd: three forwards under no_sync, then three backwards.
TEST(TestSync, DistributedSyncMultipleForwards) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Regression reference;
    auto [model, loader] = accelerator.prepare(Regression(), make_loader());
    std::vector<at::Tensor> losses, reference_losses;
    for (auto& [x, y] : loader) {
      const auto local = accelerator.no_sync(model);
      losses.push_back(mse(model(x), y));
      reference_losses.push_back(mse(reference(accelerator.gather(x)), accelerator.gather(y)));
      if (losses.size() == 3) break;
    }
    for (size_t i = 0; i < 3; ++i) {
      reference_losses[i].backward();
      if (i < 2) {
        accelerator.backward(losses[i]);
        EXPECT_FALSE(same_gradients(*model, *reference)) << i;
      } else {
        const auto together = accelerator.trigger_sync_in_backward(model);
        accelerator.backward(losses[i]);
        EXPECT_TRUE(same_gradients(*model, *reference)) << i;
      }
    }
  });
}

struct Setting {
  int64_t ranks;
  bool split_batches;
  bool sync_each_batch;
};

class TestSyncAccumulation : public testing::TestWithParam<Setting> {
 protected:
  accelerate::AcceleratorOptions options(const Rank& rank) const {
    return rank.options({.gradient_accumulation_plugin =
                             GradientAccumulationPlugin{.num_steps = 2, .sync_each_batch = GetParam().sync_each_batch},
                         .dataloader_config = DataLoaderConfiguration{.split_batches = GetParam().split_batches}});
  }
};

// test_gradient_accumulation.
TEST_P(TestSyncAccumulation, Gradients) {
  const auto [ranks, split_batches, sync_each_batch] = GetParam();
  ddp::on_ranks(ranks, [&, each = sync_each_batch, size = ranks](const Rank& rank) {
    Accelerator accelerator(options(rank));
    Regression reference;
    auto [model, loader] = accelerator.prepare(Regression(), make_loader());
    int64_t iteration = 0;
    for (auto& [x, y] : loader) {
      reference_backward(accelerator, reference, x, y, 2);
      const auto window = accelerator.accumulate(model);
      accelerator.backward(mse(model(x), y));
      const bool ends = (iteration + 1) % 2 == 0 || iteration == loader.size() - 1;
      EXPECT_EQ(accelerator.sync_gradients(), ends);
      EXPECT_EQ(same_gradients(*model, *reference), size == 1 || ends || each) << iteration;
      if (ends) {
        model->zero_grad();
        reference->zero_grad();
      }
      ++iteration;
    }
  });
}

// test_gradient_accumulation_with_opt_and_scheduler: AdamW and the schedule epoch ** 0.65.
TEST_P(TestSyncAccumulation, OptimizerAndScheduler) {
  const auto [ranks, split_batches, sync_each_batch] = GetParam();
  ddp::on_ranks(ranks, [&, split = split_batches, size = ranks](const Rank& rank) {
    Accelerator accelerator(options(rank));
    const auto schedule = [](int64_t epoch) { return std::pow(static_cast<double>(epoch), 0.65); };
    Regression net, reference;
    torch::optim::AdamW adamw(net->parameters(), 1e-3), by_hand(reference->parameters(), 1e-3);
    accelerate::Scheduler reference_schedule(by_hand, schedule);
    auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, adamw, make_loader(), schedule);
    for (int epoch = 0; epoch < 2; ++epoch) {
      int64_t iteration = 0;
      for (auto& [x, y] : loader) {
        reference_backward(accelerator, reference, x, y, 2);
        const bool ends = (iteration + 1) % 2 == 0 || iteration == loader.size() - 1;
        {
          const auto window = accelerator.accumulate(model);
          accelerator.backward(mse(model(x), y));
          const auto result = optimizer.step();
          EXPECT_EQ(result.applied(), ends) << "also with sync_each_batch";
          scheduler.step();
          optimizer.zero_grad();
        }
        if (ends) {
          by_hand.step();
          by_hand.zero_grad();
          for (int64_t i = 0; i < (split ? 1 : size); ++i) reference_schedule.step();
        }
        EXPECT_EQ(adamw.param_groups()[0].options().get_lr(), by_hand.param_groups()[0].options().get_lr());
        EXPECT_NEAR(net->a.item<double>(), reference->a.item<double>(), 1e-9);
        EXPECT_NEAR(net->b.item<double>(), reference->b.item<double>(), 1e-9);
        ++iteration;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Settings, TestSyncAccumulation,
                         testing::Values(Setting{1, false, false}, Setting{1, false, true}, Setting{2, false, false},
                                         Setting{2, false, true}, Setting{2, true, false}, Setting{2, true, true},
                                         Setting{4, false, false}, Setting{4, false, true}, Setting{4, true, true}),
                         [](const auto& info) {
                           return std::to_string(info.param.ranks) + (info.param.split_batches ? "Split" : "") +
                                  (info.param.sync_each_batch ? "EachBatch" : "");
                         });

// test_dataloader_break is tests/unit/data_active_loaders_test.cpp.

// Ranks that differ would wait for each other, or divide differently.
TEST(Accumulation, IsComparedOverTheRanks) {
  const auto differ = [](GradientAccumulationPlugin first, GradientAccumulationPlugin second) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      const auto construct = [&] {
        Accelerator accelerator(rank.options({.gradient_accumulation_plugin = rank.rank() == 0 ? first : second}));
      };
      EXPECT_THROW(construct(), accelerate::ConfigError);
    });
  };
  differ({.num_steps = 2}, {.num_steps = 2, .sync_each_batch = true});
  differ({.num_steps = 2}, {.num_steps = 2, .divide_by = accelerate::WindowDivisor::kMicroSteps});
}

// The short last window of every process, divided by its own number of micro-steps.
TEST(DivideByMicroSteps, IsTheSameOnEveryRank) {
  for (const bool each_batch : {false, true}) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      Accelerator accelerator(rank.options(
          {.gradient_accumulation_plugin = GradientAccumulationPlugin{
               .num_steps = 4, .sync_each_batch = each_batch, .divide_by = accelerate::WindowDivisor::kMicroSteps}}));
      Regression reference;
      auto [model, loader] = accelerator.prepare(Regression(), make_loader(8));  // 5 batches of each rank
      int64_t iteration = 0;
      for (auto& [x, y] : loader) {
        reference_backward(accelerator, reference, x, y, iteration < 4 ? 4 : 1);
        const auto window = accelerator.accumulate(model);
        accelerator.backward(mse(model(x), y));
        if (accelerator.sync_gradients()) {
          EXPECT_TRUE(same_gradients(*model, *reference)) << iteration;
          model->zero_grad();
          reference->zero_grad();
        }
        ++iteration;
      }
      EXPECT_EQ(iteration, 5);
    });
  }
}

}  // namespace
