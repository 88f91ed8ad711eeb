// The original's examples/by_feature/local_sgd.py, line by line, with the digits in place of the text task;
// README.md beside this file says what changed and why.
//
//   local_sgd
//   accelerate-cpp launch --num-processes 2 local_sgd --local_sgd_steps 4

#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "accelerate/accelerate.h"
#include "accelerate/local_sgd.h"
#include "examples/by_feature/accuracy.h"
#include "examples/digits/data.h"
#include "examples/digits/net.h"

namespace {

using Batch = std::tuple<at::Tensor, at::Tensor>;

constexpr int64_t EVAL_BATCH_SIZE = 32;

struct Config {
  double lr;
  int64_t num_epochs;
  uint64_t seed;
  int64_t batch_size;
};

struct Args {
  std::optional<std::string> mixed_precision;
  int64_t gradient_accumulation_steps = 1;
  int64_t local_sgd_steps = 8;
  bool cpu = false;
};

std::pair<accelerate::DataLoader<Batch>, accelerate::DataLoader<Batch>> get_dataloaders(int64_t batch_size) {
  const digits::Split datasets =
      digits::hold_out_every_fifth(digits::read(ACCELERATE_SOURCE_DIR "/data/digits.csv.gz"));
  accelerate::DataLoader train_dataloader(accelerate::TensorDataset(datasets.train.images, datasets.train.labels),
                                          {.batch_size = batch_size, .shuffle = true});
  accelerate::DataLoader eval_dataloader(accelerate::TensorDataset(datasets.test.images, datasets.test.labels),
                                         {.batch_size = EVAL_BATCH_SIZE});
  return {train_dataloader, eval_dataloader};
}

void training_function(const Config& config, const Args& args) {
  // New Code #
  const int64_t gradient_accumulation_steps = args.gradient_accumulation_steps;
  const int64_t local_sgd_steps = args.local_sgd_steps;
  // Initialize accelerator
  accelerate::AcceleratorOptions options{.gradient_accumulation_steps = gradient_accumulation_steps};
  if (args.mixed_precision) options.mixed_precision = *args.mixed_precision;
  if (args.cpu) options.cpu = true;
  accelerate::Accelerator accelerator(options);
  // Sample hyper-parameters for learning rate, batch size, seed and a few other HPs
  const double lr = config.lr;
  const int64_t num_epochs = config.num_epochs;
  const uint64_t seed = config.seed;
  const int64_t batch_size = config.batch_size;

  by_feature::Accuracy metric;

  accelerate::set_seed(seed);
  auto [train_data, eval_data] = get_dataloaders(batch_size);
  // Instantiate the model (we build the model here so that the seed also control new weights initialization)
  digits::Net net;

  // Instantiate optimizer
  torch::optim::AdamW adamw(net->parameters(), torch::optim::AdamWOptions(lr));

  // Instantiate scheduler
  accelerate::Scheduler schedule(
      adamw, accelerate::linear({.warmup_steps = 100, .total_steps = train_data.size() * num_epochs}));

  // Prepare everything: there is no specific order to remember, the handles come in the order of the objects.
  auto [model, optimizer, train_dataloader, eval_dataloader, lr_scheduler] =
      accelerator.prepare(net, adamw, train_data, eval_data, schedule);

  // Now we train the model
  for (int64_t epoch = 0; epoch < num_epochs; ++epoch) {
    model->train();
    {
      accelerate::LocalSGD local_sgd(accelerator, model, {.local_sgd_steps = local_sgd_steps});
      for (auto& [images, labels] : train_dataloader) {
        // New code #
        // We use the new `accumulate` guard to perform gradient accumulation
        auto window = accelerator.accumulate(model);
        const at::Tensor output = model(images);
        const at::Tensor loss = torch::nn::functional::cross_entropy(output, labels);
        accelerator.backward(loss);
        optimizer.step();
        lr_scheduler.step();
        optimizer.zero_grad();
        // LocalSGD-specific line
        local_sgd.step();
      }
    }

    model->eval();
    for (auto& [images, labels] : eval_dataloader) {
      const torch::NoGradGuard no_grad;
      const at::Tensor outputs = model(images);
      const auto [predictions, references] = accelerator.gather_for_metrics(std::tuple(outputs.argmax(-1), labels));
      metric.add_batch(predictions, references);
    }

    const double eval_metric = metric.compute();
    // Use accelerator.print to print only on the main process.
    accelerator.print("epoch " + std::to_string(epoch) + ": accuracy", eval_metric);
  }
  accelerator.end_training();
}

}  // namespace

int main(int argc, char** argv) {
  Args args;
  CLI::App parser("Simple example of training script.", "local_sgd");
  parser.add_option("--mixed_precision", args.mixed_precision, "no or bf16");
  // New Code #
  parser.add_option("--gradient_accumulation_steps", args.gradient_accumulation_steps,
                    "The number of minibatches to be ran before gradients are accumulated.");
  parser.add_option("--local_sgd_steps", args.local_sgd_steps, "Number of local SGD steps");
  parser.add_flag("--cpu", args.cpu, "If passed, will train on the CPU.");
  CLI11_PARSE(parser, argc, argv);
  try {
    training_function({.lr = 5e-3, .num_epochs = 3, .seed = 42, .batch_size = 16}, args);
  } catch (const std::exception& error) {
    std::cerr << "local_sgd: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
