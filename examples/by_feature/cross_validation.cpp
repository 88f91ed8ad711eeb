// The original's examples/by_feature/cross_validation.py, line by line, with the digits in place of the text task;
// README.md beside this file says what changed and why.
//
//   cross_validation --num_folds 3
//   accelerate-cpp launch --num-processes 2 cross_validation

#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "accelerate/accelerate.h"
#include "examples/by_feature/accuracy.h"
#include "examples/by_feature/stratified_k_fold.h"
#include "examples/digits/data.h"
#include "examples/digits/net.h"

namespace {

using DataLoader = accelerate::DataLoader<std::tuple<at::Tensor, at::Tensor>>;

constexpr int64_t MAX_GPU_BATCH_SIZE = 16;
constexpr int64_t EVAL_BATCH_SIZE = 32;

struct Config {
  double lr;
  int64_t num_epochs;
  uint64_t seed;
  int64_t batch_size;
};

struct Args {
  std::optional<std::string> mixed_precision;
  int64_t num_folds = 3;
  bool cpu = false;
};

// New Code #
// We need a different `get_dataloaders` function that will build dataloaders by index

struct FoldDataLoaders {
  DataLoader train, eval, test;
};

FoldDataLoaders get_fold_dataloaders(const digits::Split& dataset, const by_feature::Fold& fold,
                                     int64_t batch_size = 16) {
  const at::Tensor train_idxs = torch::tensor(fold.train_idxs), valid_idxs = torch::tensor(fold.valid_idxs);
  const digits::Samples& rows = dataset.train;
  DataLoader train_dataloader(
      accelerate::TensorDataset(rows.images.index({train_idxs}), rows.labels.index({train_idxs})),
      {.batch_size = batch_size, .shuffle = true});
  DataLoader eval_dataloader(
      accelerate::TensorDataset(rows.images.index({valid_idxs}), rows.labels.index({valid_idxs})),
      {.batch_size = EVAL_BATCH_SIZE});
  DataLoader test_dataloader(accelerate::TensorDataset(dataset.test.images, dataset.test.labels),
                             {.batch_size = EVAL_BATCH_SIZE});
  return {train_dataloader, eval_dataloader, test_dataloader};
}

void training_function(const Config& config, const Args& args) {
  // New Code #
  std::vector<at::Tensor> test_predictions;
  const digits::Split datasets =
      digits::hold_out_every_fifth(digits::read(ACCELERATE_SOURCE_DIR "/data/digits.csv.gz"));
  // Create our splits
  const by_feature::StratifiedKFold kfold(args.num_folds);
  // Initialize accelerator
  accelerate::AcceleratorOptions options;
  if (args.mixed_precision) options.mixed_precision = *args.mixed_precision;
  if (args.cpu) options.cpu = true;
  accelerate::Accelerator accelerator(options);
  // Sample hyper-parameters for learning rate, batch size, seed and a few other HPs
  const double lr = config.lr;
  const int64_t num_epochs = config.num_epochs;
  const uint64_t seed = config.seed;
  int64_t batch_size = config.batch_size;

  by_feature::Accuracy metric;

  // If the batch size is too big we use gradient accumulation
  int64_t gradient_accumulation_steps = 1;
  if (batch_size > MAX_GPU_BATCH_SIZE) {
    gradient_accumulation_steps = batch_size / MAX_GPU_BATCH_SIZE;
    batch_size = MAX_GPU_BATCH_SIZE;
  }

  accelerate::set_seed(seed);

  // New Code #
  // Create our folds:
  const std::vector<by_feature::Fold> folds = kfold.split(datasets.train.labels);
  std::vector<at::Tensor> test_references;
  // Iterate over them
  for (size_t i = 0; i < folds.size(); ++i) {
    auto [train_data, eval_data, test_dataloader] = get_fold_dataloaders(datasets, folds[i], batch_size);
    // Instantiate the model (we build the model here so that the seed also control new weights initialization)
    digits::Net net;

    // Instantiate optimizer
    torch::optim::AdamW adamw(net->parameters(), torch::optim::AdamWOptions(lr));

    // Instantiate scheduler
    accelerate::Scheduler schedule(
        adamw, accelerate::linear(
                   {.warmup_steps = 100, .total_steps = train_data.size() * num_epochs / gradient_accumulation_steps}));

    // Prepare everything: there is no specific order to remember, the handles come in the order of the objects.
    auto [model, optimizer, train_dataloader, eval_dataloader, lr_scheduler] =
        accelerator.prepare(net, adamw, train_data, eval_data, schedule);

    // Now we train the model
    for (int64_t epoch = 0; epoch < num_epochs; ++epoch) {
      model->train();
      int64_t step = 0;
      for (auto& [images, labels] : train_dataloader) {
        const at::Tensor outputs = model(images);
        at::Tensor loss = torch::nn::functional::cross_entropy(outputs, labels);
        loss = loss / gradient_accumulation_steps;
        accelerator.backward(loss);
        if (step++ % gradient_accumulation_steps == 0) {
          optimizer.step();
          lr_scheduler.step();
          optimizer.zero_grad();
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

    // New Code #
    // We also run predictions on the test set at the very end
    std::vector<at::Tensor> fold_predictions;
    for (auto& [images, labels] : test_dataloader) {
      const torch::NoGradGuard no_grad;
      // Not prepared, as in the original: its batches are moved by hand, and every process has all of them.
      const at::Tensor outputs = model(images.to(accelerator.device()));
      const auto [predictions, references] =
          accelerator.gather_for_metrics(std::tuple(outputs, labels.to(accelerator.device())));
      fold_predictions.push_back(predictions.cpu());
      // We need all of the test predictions
      if (i == 0) test_references.push_back(references.cpu());
    }
    test_predictions.push_back(torch::cat(fold_predictions, 0));
    // We now need to release all our memory and get rid of the current model, optimizer, etc
    accelerator.free_memory(model, optimizer);
  }
  // New Code #
  // Finally we check the accuracy of our folded results:
  const at::Tensor references = torch::cat(test_references, 0);
  const at::Tensor preds = torch::stack(test_predictions, 0).sum(0).div(static_cast<double>(args.num_folds)).argmax(-1);
  const double test_metric = metric.compute(preds, references);
  accelerator.print("Average test metrics from all folds: accuracy", test_metric);
  accelerator.end_training();
}

}  // namespace

int main(int argc, char** argv) {
  Args args;
  CLI::App parser("Simple example of training script.", "cross_validation");
  parser.add_option("--mixed_precision", args.mixed_precision, "no or bf16");
  parser.add_flag("--cpu", args.cpu, "If passed, will train on the CPU.");
  // New Code #
  parser.add_option("--num_folds", args.num_folds, "The number of splits to perform across the dataset");
  CLI11_PARSE(parser, argc, argv);
  try {
    training_function({.lr = 5e-3, .num_epochs = 3, .seed = 42, .batch_size = 16}, args);
  } catch (const std::exception& error) {
    std::cerr << "cross_validation: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
