// Trains a small convolutional network on 1,437 handwritten digits, saves it, reads it back into a fresh network and
// checks on the 360 digits that training never saw that nothing was lost. The last line of output is one JSON object.
//
//   digits                                             one process
//   accelerate-cpp launch --num-processes 2 digits     two, which share every batch and end with the same network
//
// The exit status is 0 only if the held-out accuracy is at least 0.98, an untrained network is below 0.3, the network
// read back answers exactly as the trained one does, and all processes hold the same network, each sample of an epoch
// having been seen by one of them.

#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "accelerate/accelerate.h"
#include "examples/digits/data.h"
#include "examples/digits/net.h"

namespace {

struct Options {
  int64_t epochs = 15, batch_size = 32;
  double learning_rate = 5e-3;
  uint64_t seed = 0;
  std::filesystem::path data = ACCELERATE_SOURCE_DIR "/data/digits.csv.gz";
  std::filesystem::path out = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "digits-out";
  std::optional<int64_t> gradient_accumulation_steps;
  std::optional<std::string> mixed_precision;
  bool cuda_graph = false;
  std::filesystem::path summary;
};

struct Training {
  double loss_first = 0, loss = 0, seconds = 0;
  bool samples_disjoint = true;  ///< no sample of the first epoch was trained on twice
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Share of the loader's samples that the model classifies as labelled, over all processes.
double accuracy(accelerate::Accelerator& accelerator, auto& model, auto& loader) {
  const torch::NoGradGuard no_grad;
  model->eval();
  int64_t right = 0, seen = 0;
  for (auto& [images, labels] : loader) {
    auto [guesses, answers] = accelerator.gather_for_metrics(std::tuple(model(images).argmax(1), labels));
    right += (guesses == answers).sum().template item<int64_t>();
    seen += answers.size(0);
  }
  model->train();
  return static_cast<double>(right) / static_cast<double>(seen);
}

bool all_different(const at::Tensor& ids) { return std::get<0>(at::_unique(ids)).numel() == ids.numel(); }

/// Whether every process holds the same parameters, bit for bit.
bool equal_on_all_ranks(accelerate::Accelerator& accelerator, auto& model) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& parameter : model->parameters()) flat.push_back(parameter.detach().flatten());
  const at::Tensor mine = torch::cat(flat).unsqueeze(0);
  return torch::equal(accelerator.gather(mine), mine.expand({accelerator.num_processes(), -1}));
}

Training train(accelerate::Accelerator& accelerator, const Options& options, auto& model, auto& optimizer,
               auto& scheduler, auto& loader, auto& held_out) {
  Training result;
  for (int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    const double start = seconds();
    char name[64];
    std::snprintf(name, sizeof name, "epoch %2ld/%ld", static_cast<long>(epoch + 1), static_cast<long>(options.epochs));
    auto steps = accelerator.tqdm(loader, std::cout, {.desc = name, .unit = "step", .leave = false});
    at::Tensor total = torch::zeros({}, accelerator.device());
    std::vector<at::Tensor> seen;
    for (auto& [images, labels, ids] : steps) {
      auto window = accelerator.accumulate(model);
      auto loss = torch::nn::functional::cross_entropy(model(images), labels);
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
      optimizer.step();
      if (accelerator.sync_gradients()) scheduler.step();
      optimizer.zero_grad();

      if (epoch == 0) seen.push_back(accelerator.gather_for_metrics(ids));
      if (result.loss_first == 0) {
        result.loss_first = accelerator.reduce(loss.detach(), {.reduction = "mean"}).template item<double>();
      }
      total += loss.detach();
      if (steps.is_due()) steps.set_postfix("loss " + std::to_string(loss.template item<double>()));
    }
    if (epoch == 0) result.samples_disjoint = all_different(torch::cat(seen));
    result.loss = accelerator.reduce(total / loader.size(), {.reduction = "mean"}).template item<double>();
    result.seconds += seconds() - start;
    char line[128];
    std::snprintf(line, sizeof line, "%s  loss %.4f  learning rate %.1e  held-out accuracy %.4f", name, result.loss,
                  scheduler.get_last_lr()[0], accuracy(accelerator, model, held_out));
    accelerator.print(line);
  }
  return result;
}

int run(const Options& options) {
  at::set_num_threads(1);  // layers this small lose more by sharing their work than they gain
  accelerate::set_seed(options.seed);
  // The schedule counts updates, however many processes share one.
  accelerate::AcceleratorOptions wanted{.gradient_accumulation_steps = options.gradient_accumulation_steps,
                                        .step_scheduler_with_optimizer = false};
  if (options.mixed_precision) wanted.mixed_precision = *options.mixed_precision;
  if (options.cuda_graph) wanted.cuda_graph = accelerate::CudaGraph{};
  accelerate::Accelerator accelerator(wanted);

  const int64_t processes = accelerator.num_processes();
  if (options.batch_size % processes != 0) {
    throw std::invalid_argument("--batch-size " + std::to_string(options.batch_size) + " cannot be shared by " +
                                std::to_string(processes) + " processes; give a multiple of their number");
  }

  const auto [train_set, test_set] = digits::hold_out_every_fifth(digits::read(options.data));
  const at::Tensor ids = torch::arange(train_set.labels.size(0));
  accelerate::DataLoader train_data(
      accelerate::TensorDataset(train_set.images, train_set.labels, ids),
      {.batch_size = options.batch_size / processes, .shuffle = true, .seed = options.seed});
  accelerate::DataLoader test_data(accelerate::TensorDataset(test_set.images, test_set.labels), {.batch_size = 120});

  digits::Net net;
  torch::optim::AdamW adamw(net->parameters(), torch::optim::AdamWOptions(options.learning_rate));
  const int64_t window = accelerator.gradient_accumulation_steps();
  const int64_t steps = (train_set.labels.size(0) + options.batch_size - 1) / options.batch_size;
  const int64_t updates = options.epochs * ((steps + window - 1) / window);
  auto [model, optimizer, scheduler, loader, held_out] = accelerator.prepare(
      net, adamw, accelerate::cosine({.warmup_steps = updates / 10, .total_steps = updates}), train_data, test_data);

  const Training training = train(accelerator, options, model, optimizer, scheduler, loader, held_out);
  const double trained = accuracy(accelerator, model, held_out);
  const bool ranks_equal = training.samples_disjoint && equal_on_all_ranks(accelerator, model);
  accelerator.save_model(model, options.out.string());

  auto restored = accelerator.prepare(digits::Net());
  const double fresh = accuracy(accelerator, restored, held_out);
  accelerator.print("a fresh network: held-out accuracy", fresh);
  accelerator.load_model(restored, options.out.string());
  const double loaded = accuracy(accelerator, restored, held_out);
  accelerator.print("the same with load_model from", options.out, "held-out accuracy", loaded);

  char summary[512];
  std::snprintf(summary, sizeof summary,
                "{\"example\": \"digits\", \"processes\": %ld, \"train_samples\": %ld, \"test_samples\": %ld, "
                "\"epochs\": %ld, \"accuracy\": %.6f, \"loss_first\": %.8f, \"loss\": %.6f, \"seconds\": %.3f, "
                "\"samples_per_second\": %.0f, \"ranks_equal\": %s}",
                static_cast<long>(processes), train_set.labels.size(0), test_set.labels.size(0), options.epochs,
                trained, training.loss_first, training.loss, training.seconds,
                train_set.labels.size(0) * options.epochs / training.seconds, ranks_equal ? "true" : "false");
  accelerator.print(summary);
  if (!options.summary.empty() && accelerator.is_main_process()) std::ofstream(options.summary) << summary << "\n";
  accelerator.end_training();
  const bool kept = trained >= 0.98 && fresh < 0.3 && loaded == trained && ranks_equal;
  if (!kept) std::cerr << "digits: expected accuracy >= 0.98, fresh < 0.3, loaded equal to trained, ranks equal\n";
  return kept ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a small convolutional network on the UCI handwritten digits.", "digits");
  app.add_option("--epochs", options.epochs)->capture_default_str()->check(CLI::Range(int64_t{1}, int64_t{1000000}));
  app.add_option("--batch-size", options.batch_size, "samples a step, over all processes")->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate, "the highest, after warm-up")->capture_default_str();
  app.add_option("--seed", options.seed)->capture_default_str();
  app.add_option("--data", options.data, "the digits, see data/README.md")->capture_default_str();
  app.add_option("--out", options.out, "folder for model.safetensors")->capture_default_str();
  app.add_option("--gradient-accumulation-steps", options.gradient_accumulation_steps);
  app.add_option("--summary", options.summary, "a file for the last line");
  app.add_option("--mixed-precision", options.mixed_precision, "no, bf16 or fp16");
  app.add_flag("--cuda-graph", options.cuda_graph, "on a GPU: the step is captured");
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::cerr << "digits: " << error.what() << "\n";
    return 1;
  }
}
