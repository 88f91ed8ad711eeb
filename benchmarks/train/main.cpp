// Times the training loop of a user of the library, or with --plain the same operators written by hand, and prints one
// JSON line. benchmarks/run.py runs both beside the Python peer.

#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "benchmarks/train/loops.h"

namespace {

/// A number that torchrun or `accelerate-cpp launch` sets.
int64_t launched(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark_train::Settings settings;
  int threads = 1;
  bool plain = false, in_order = false;
  CLI::App app("Milliseconds a step of a small training loop on the CPU.", "train");
  app.add_option("--task", settings.task)->required()->check(CLI::IsMember({"mlp", "conv", "digits"}));
  app.add_option("--batch-size", settings.batch_size)->capture_default_str()->check(CLI::Range(1, 512));
  app.add_option("--steps", settings.steps, "measured steps, in 6 windows")
      ->capture_default_str()
      ->check(CLI::Range(6, 1'000'000));
  app.add_option("--warmup", settings.warmup, "steps before")->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_option("--seed", settings.seed)->capture_default_str();
  app.add_option("--threads", threads, "of LibTorch's operators")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--backend", settings.backend, "between processes: gloo (always with --plain), shm, nccl");
  app.add_option("--started-at", settings.started_at, "system clock at exec, in ns, for first_step_s");
  app.add_flag("--plain", plain, "the hand-written loop");
  app.add_flag("--no-shuffle", in_order, "batches in the order of the data: losses of all loops agree");
  CLI11_PARSE(app, argc, argv);
  settings.shuffle = !in_order;
  const int64_t world = launched("WORLD_SIZE", 1);
  at::set_num_threads(threads);

  benchmark_train::Meter meter(settings);
  try {
    (plain ? benchmark_train::plain_loop : benchmark_train::prepared_loop)(settings, meter);
  } catch (const std::exception& error) {
    std::cerr << "train: " << error.what() << "\n";
    return 1;
  }
  if (launched("RANK", 0) != 0) return 0;
  std::printf(
      "{\"task\": \"%s\", \"world\": %ld, \"batch_size\": %ld, \"ms\": %.4f, \"min_ms\": %.4f, \"samples_per_s\": "
      "%.0f, "
      "\"loss_first\": %.9g, \"loss_last\": %.9g, \"first_step_s\": %.3f, \"rss_mb\": %.0f, \"peak_gpu_gb\": 0}\n",
      settings.task.c_str(), world, settings.batch_size, meter.median_ms(), meter.min_ms(),
      1e3 * world * settings.batch_size / meter.median_ms(), meter.loss_first(), meter.loss_last(),
      meter.first_step_s(), benchmark_train::peak_rss_mb());
  return 0;
}
