// Every name of the manual's page and of the original's Accelerator and states: called, or said why not. The list of
// names is the original's own (tests/parity/original/page.py), so that none is forgotten and none has come and gone.
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;

/// Names that are not called, and why.
using Reasons = std::map<std::string, std::string>;

class Page : public testing::Test {
 protected:
  /// The name is there: this calls it.
  void call(const std::string& name, const std::function<void()>& use) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(called_.insert(name).second) << "called twice";
    EXPECT_NO_THROW(use());
  }
  /// Everything in `names` has to be called or excused, and nothing else.
  void expect_complete(const std::vector<std::string>& names, const Reasons& excused) {
    std::set<std::string> missing(names.begin(), names.end());
    for (const std::string& name : called_) EXPECT_EQ(missing.erase(name), 1U) << name << " is no name of the original";
    for (const auto& [name, reason] : excused) EXPECT_EQ(missing.erase(name), 1U) << name << ": " << reason;
    EXPECT_THAT(missing, testing::IsEmpty());
  }
  static std::vector<std::string> names(const char* list) {
    std::ifstream file(std::string(ACCELERATE_SOURCE_DIR) + "/tests/parity/fixtures/page.json");
    return nlohmann::json::parse(file).at(nlohmann::json::json_pointer(list)).get<std::vector<std::string>>();
  }

 private:
  std::set<std::string> called_;
};

constexpr const char* kOtherEngine = "an engine that is not built in";
constexpr const char* kCheckpoints = "later: checkpoints";
constexpr const char* kTrackers = "later: trackers";
constexpr const char* kLoaders = "later: iterable and dispatched data";
constexpr const char* kMeshes = "later: several axes of parallelism";

TEST_F(Page, OfTheAccelerator) {
  const accelerate::support::TemporaryFolder folder;
  Accelerator accelerator({.gradient_accumulation_steps = 2, .project_dir = folder.path().string()});
  training::Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  const auto batch = training::make_batch(8, 2);
  accelerate::DataLoader data(accelerate::TensorDataset(batch.x, batch.y), {.batch_size = 4});

  call("prepare", [&] { accelerator.prepare(net, sgd, data, accelerate::constant()); });
  auto model = accelerator.prepare_model(net);
  auto optimizer = accelerator.prepare_optimizer(sgd);
  auto loader = accelerator.prepare_data_loader(data);
  auto scheduler = accelerator.prepare_scheduler(accelerate::linear({.total_steps = 10}), optimizer);
  call("prepare_model", [&] { EXPECT_EQ(model.ptr(), net.ptr()); });
  call("prepare_optimizer", [&] { EXPECT_EQ(&static_cast<torch::optim::Optimizer&>(optimizer), &sgd); });
  call("prepare_data_loader", [&] { EXPECT_EQ(loader.size(), 2); });
  call("prepare_scheduler", [&] { EXPECT_EQ(scheduler.last_epoch(), 0); });

  const auto loss_of = [&](const at::Tensor& x, const at::Tensor& y) { return torch::mse_loss(model(x), y); };
  std::vector<bool> synchronised;
  for (auto& [x, y] : loader) {
    auto window = accelerator.accumulate(model);
    accelerator.backward(loss_of(x, y));
    synchronised.push_back(accelerator.sync_gradients());
    accelerator.clip_grad_norm_(model, 1.0);
    accelerator.clip_grad_value_(model, {.clip_value = 1.0});
    accelerator.unscale_gradients(optimizer);
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
    EXPECT_EQ(accelerator.gather_for_metrics(y).size(0), 4);
  }
  const std::vector<bool> expected{false, true};
  call("accumulate", [&] { EXPECT_EQ(synchronised, expected); });
  call("sync_gradients", [&] { EXPECT_TRUE(accelerator.sync_gradients()); });
  call("backward", [&] { EXPECT_EQ(scheduler.last_epoch(), 1); });
  call("clip_grad_norm_", [&] { accelerator.clip_grad_norm_({model}, {.max_norm = 1.0}); });
  call("clip_grad_value_", [&] { accelerator.clip_grad_value_({model}, {.clip_value = 1.0}); });
  call("unscale_gradients", [&] { accelerator.unscale_gradients(); });
  call("optimizer_step_was_skipped", [&] { EXPECT_FALSE(accelerator.optimizer_step_was_skipped()); });
  call("gather_for_metrics", [&] { EXPECT_EQ(accelerator.gather_for_metrics(batch.y).size(0), 8); });
  call("gradient_accumulation_steps", [&] {
    EXPECT_EQ(accelerator.gradient_accumulation_steps(), 2);
    accelerator.set_gradient_accumulation_steps(1);
  });
  call("no_sync", [&] { auto local = accelerator.no_sync(model); });
  call("trigger_sync_in_backward", [&] { auto together = accelerator.trigger_sync_in_backward(model); });
  call("join_uneven_inputs", [&] { accelerator.join_uneven_inputs({model}, {.even_batches = false}).finish(); });
  call("autocast", [&] { auto scope = accelerator.autocast(); });
  call("profile", [&] { auto profiler = accelerator.profile({.activities = {"cpu"}}); });

  call("gather", [&] { EXPECT_TRUE(torch::equal(accelerator.gather(batch.x), batch.x)); });
  call("reduce", [&] { EXPECT_TRUE(torch::equal(accelerator.reduce(batch.x, {.reduction = "mean"}), batch.x)); });
  call("pad_across_processes", [&] { accelerator.pad_across_processes(batch.x, {.dim = 1, .pad_index = -1}); });
  call("split_between_processes", [&] {
    EXPECT_EQ(accelerator.split_between_processes(std::vector<int>{1, 2, 3}).size(), 3U);
  });
  call("wait_for_everyone", [&] { accelerator.wait_for_everyone(); });
  call("set_trigger", [&] { accelerator.set_trigger(); });
  call("check_trigger", [&] {
    EXPECT_TRUE(accelerator.check_trigger());
    EXPECT_FALSE(accelerator.check_trigger());
  });

  call("print", [&] {
    testing::internal::CaptureStdout();
    accelerator.print("My thing I want to print!");
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "My thing I want to print!\n");
  });
  int runs = 0;
  const auto count = [&] { return ++runs; };
  call("on_main_process", [&] { accelerator.on_main_process(count)(); });
  call("on_local_main_process", [&] { accelerator.on_local_main_process(count)(); });
  call("on_last_process", [&] { accelerator.on_last_process(count)(); });
  call("on_process", [&] { accelerator.on_process(0, count)(); });
  call("on_local_process", [&] { accelerator.on_local_process(0, count)(); });
  EXPECT_EQ(runs, 5);
  call("main_process_first", [&] { auto order = accelerator.main_process_first(); });
  call("local_main_process_first", [&] { auto order = accelerator.local_main_process_first(); });

  call("is_main_process", [&] { EXPECT_TRUE(accelerator.is_main_process()); });
  call("is_local_main_process", [&] { EXPECT_TRUE(accelerator.is_local_main_process()); });
  call("is_last_process", [&] { EXPECT_TRUE(accelerator.is_last_process()); });
  call("num_processes", [&] { EXPECT_EQ(accelerator.num_processes(), 1); });
  call("process_index", [&] { EXPECT_EQ(accelerator.process_index(), 0); });
  call("local_process_index", [&] { EXPECT_EQ(accelerator.local_process_index(), 0); });
  call("use_distributed", [&] { EXPECT_FALSE(accelerator.use_distributed()); });
  call("multi_device", [&] { EXPECT_FALSE(accelerator.multi_device()); });
  call("distributed_type", [&] { EXPECT_EQ(accelerator.distributed_type(), accelerate::DistributedType::kNo); });
  call("device", [&] { EXPECT_TRUE(accelerator.device().is_cpu()); });
  call("mixed_precision", [&] { EXPECT_EQ(accelerator.mixed_precision(), "no"); });
  call("split_batches", [&] { EXPECT_FALSE(accelerator.split_batches()); });
  call("even_batches", [&] { EXPECT_TRUE(accelerator.even_batches()); });
  call("use_seedable_sampler", [&] { EXPECT_TRUE(accelerator.use_seedable_sampler()); });
  call("non_blocking", [&] { EXPECT_TRUE(accelerator.non_blocking()); });
  call("project_dir", [&] { EXPECT_EQ(accelerator.project_dir(), folder.path().string()); });
  call("logging_dir", [&] { EXPECT_EQ(accelerator.logging_dir(), folder.path().string()); });
  call("save_iteration", [&] { EXPECT_EQ(accelerator.save_iteration(), 0); });
  call("should_save_model", [&] { EXPECT_TRUE(accelerator.should_save_model()); });

  call("unwrap_model", [&] { EXPECT_EQ(accelerator.unwrap_model(model), net.ptr()); });
  call("save_model", [&] { accelerator.save_model(model, (folder.path() / "out").string()); });
  accelerator.load_model(model, (folder.path() / "out").string());
  call("free_memory", [&] { accelerator.free_memory(scheduler, optimizer); });
  call("clear", [&] { accelerator.clear(model, loader); });
  call("end_training", [&] { accelerator.end_training(); });

  expect_complete(names("/accelerator"), {{"save", kCheckpoints},
                                          {"save_state", kCheckpoints},
                                          {"load_state", kCheckpoints},
                                          {"get_state_dict", kCheckpoints},
                                          {"register_for_checkpointing", kCheckpoints},
                                          {"register_save_state_pre_hook", kCheckpoints},
                                          {"register_load_state_pre_hook", kCheckpoints},
                                          {"skip_first_batches", kCheckpoints},
                                          {"use_stateful_dataloader", kLoaders},
                                          {"dispatch_batches", kLoaders},
                                          {"init_trackers", kTrackers},
                                          {"get_tracker", kTrackers},
                                          {"log", kTrackers},
                                          {"verify_device_map", "later: placement of large models"},
                                          {"fp8_backend", "later: fp8"},
                                          {"parallelism_config", kMeshes},
                                          {"torch_device_mesh", kMeshes},
                                          {"data_parallel_rank", kMeshes},
                                          {"data_parallel_shard_rank", kMeshes},
                                          {"tensor_parallel_rank", kMeshes},
                                          {"context_parallel_rank", kMeshes},
                                          {"pipeline_parallel_rank", kMeshes},
                                          {"maybe_context_parallel", kMeshes},
                                          {"is_fsdp2", "later: sharded models"},
                                          {"is_composable_parallelism_enabled", "later: sharded models"},
                                          {"deepspeed_plugin", kOtherEngine},
                                          {"deepspeed_ulysses_dl_adapter", kOtherEngine},
                                          {"lomo_backward", "an optimizer of Python's"}});
}

TEST_F(Page, OfTheStates) {
  const Accelerator accelerator;
  const accelerate::AcceleratorState& state = accelerator.state();
  const accelerate::GradientState gradients = accelerator.gradient_state();
  call("mixed_precision", [&] { EXPECT_EQ(state.mixed_precision, "no"); });
  call("use_distributed", [&] { EXPECT_FALSE(state.use_distributed()); });
  call("is_main_process", [&] { EXPECT_TRUE(state.is_main_process()); });
  call("is_local_main_process", [&] { EXPECT_TRUE(state.is_local_main_process()); });
  call("is_last_process", [&] { EXPECT_TRUE(state.is_last_process()); });
  call("num_steps", [&] { EXPECT_EQ(gradients.num_steps(), 1); });
  call("sync_with_dataloader", [&] { EXPECT_TRUE(gradients.sync_with_dataloader()); });
  call("adjust_scheduler", [&] {
    EXPECT_NO_THROW(Accelerator({.gradient_accumulation_plugin = accelerate::GradientAccumulationPlugin{
                                     .num_steps = 2, .adjust_scheduler = true}}));
  });
  call("in_dataloader", [&] { EXPECT_FALSE(gradients.in_dataloader()); });
  call("active_dataloader", [&] { EXPECT_FALSE(gradients.active_dataloader()); });
  call("end_of_dataloader", [&] { EXPECT_FALSE(gradients.end_of_dataloader()); });
  call("remainder", [&] { EXPECT_EQ(gradients.remainder(), -1); });
  const std::string of_accelerator = "a verb of the Accelerator, called above";
  expect_complete(names("/states"), {{"print", of_accelerator},
                                     {"on_main_process", of_accelerator},
                                     {"on_local_main_process", of_accelerator},
                                     {"on_last_process", of_accelerator},
                                     {"on_process", of_accelerator},
                                     {"on_local_process", of_accelerator},
                                     {"main_process_first", of_accelerator},
                                     {"local_main_process_first", of_accelerator},
                                     {"split_between_processes", of_accelerator},
                                     {"wait_for_everyone", of_accelerator},
                                     {"initialized", "a state belongs to its Accelerator: there is none before"},
                                     {"default_device", "accelerator.device(); a state is never without one"},
                                     {"set_device", "decided when the Accelerator is built"},
                                     {"destroy_process_group", "end_training(), or the end of the Accelerator"},
                                     {"fork_launched", "accelerate::launch: a rank is like any other"},
                                     {"dataloader_references", "Python's weak references"},
                                     {"is_xla_gradients_synced", "other hardware"},
                                     {"is_fsdp2", "later: sharded models"},
                                     {"deepspeed_plugin", kOtherEngine},
                                     {"get_deepspeed_plugin", kOtherEngine},
                                     {"select_deepspeed_plugin", kOtherEngine}});
}

TEST_F(Page, OfTheConstructor) {
  const accelerate::support::TemporaryFolder folder;
  const std::string path = folder.path().string();
  const auto builds = [](AcceleratorOptions options) { const Accelerator accelerator(std::move(options)); };
  call("device_placement", [&] { builds({.device_placement = false}); });
  call("mixed_precision", [&] { builds({.mixed_precision = "bf16"}); });
  call("gradient_accumulation_steps", [&] { builds({.gradient_accumulation_steps = 2}); });
  call("cpu", [&] { builds({.cpu = true}); });
  call("dataloader_config", [&] {
    builds({.dataloader_config = accelerate::DataLoaderConfiguration{
                .even_batches = false, .split_batches = true, .use_seedable_sampler = true, .data_seed = 7}});
  });
  call("rng_types", [&] { builds({.rng_types = {"torch"}}); });
  call("project_dir", [&] { builds({.project_dir = path}); });
  call("project_config",
       [&] { builds({.project_config = accelerate::ProjectConfiguration{.project_dir = path, .total_limit = 2}}); });
  call("gradient_accumulation_plugin",
       [&] { builds({.gradient_accumulation_plugin = accelerate::GradientAccumulationPlugin{.num_steps = 2}}); });
  call("step_scheduler_with_optimizer", [&] { builds({.step_scheduler_with_optimizer = false}); });
  call("kwargs_handlers", [&] {
    builds({.strategy = accelerate::DistributedDataParallelKwargs{.bucket_cap_mb = 15},
            .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
            .scaler_handler = accelerate::GradScalerKwargs{.growth_interval = 100},
            .profile_handler = accelerate::ProfileKwargs{.record_shapes = true},
            .init_process_group = accelerate::InitProcessGroupKwargs{.timeout = std::chrono::minutes(5)}});
  });
  expect_complete(names("/constructor"), {{"split_batches", "ignored by the original; in .dataloader_config"},
                                          {"log_with", kTrackers},
                                          {"dynamo_backend", "a compiler of Python's"},
                                          {"dynamo_plugin", "a compiler of Python's"},
                                          {"fsdp_plugin", "later: sharded models"},
                                          {"torch_tp_plugin", kMeshes},
                                          {"parallelism_config", kMeshes},
                                          {"deepspeed_plugin", kOtherEngine},
                                          {"deepspeed_plugins", kOtherEngine},
                                          {"megatron_lm_plugin", kOtherEngine}});
}

}  // namespace
