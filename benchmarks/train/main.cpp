// Times the training loop of a user of the library, or with --plain the same operators written by hand, and prints one
// JSON line. benchmarks/run.py runs both beside the Python peer.

#include <ATen/Context.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "benchmarks/train/loops.h"
#include "benchmarks/train/tasks.h"

namespace {

/// A number that torchrun or `accelerate-cpp launch` sets.
int64_t launched(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

/// Which kernels of scaled_dot_product_attention are asked first; the peer's program does the same.
void prefer(const std::string& attention) {
  using at::SDPBackend;
  const auto order = [](std::initializer_list<SDPBackend> backends) {
    std::vector<int64_t> numbers;
    for (const SDPBackend backend : backends) numbers.push_back(static_cast<int64_t>(backend));
    at::globalContext().setSDPPriorityOrder(numbers);
  };
  if (attention == "cudnn") {
    order(
        {SDPBackend::cudnn_attention, SDPBackend::flash_attention, SDPBackend::efficient_attention, SDPBackend::math});
  } else if (attention == "flash") {
    order(
        {SDPBackend::flash_attention, SDPBackend::efficient_attention, SDPBackend::math, SDPBackend::cudnn_attention});
  }
}

void print(const benchmark_train::Settings& settings, const benchmark_train::Meter& meter, int64_t world) {
  std::printf("{\"task\": \"%s\", \"world\": %ld, \"batch_size\": %ld, \"length\": %ld, \"precision\": \"%s\", ",
              settings.task.c_str(), world, settings.batch_size, settings.length, settings.precision.c_str());
  std::printf("\"ms\": %.4f, \"min_ms\": %.4f, \"host_ms\": %.4f, \"samples_per_s\": %.0f, ", meter.median_ms(),
              meter.min_ms(), meter.host_ms(), 1e3 * world * settings.batch_size / meter.median_ms());
  std::printf("\"loss_first\": %.9g, \"loss_last\": %.9g, \"losses\": [", meter.losses().front(), meter.loss_last());
  const char* separator = "";
  for (const double loss : meter.losses()) std::printf("%s%.9g", std::exchange(separator, ", "), loss);
  std::printf("], \"first_step_s\": %.3f, \"captured_step_s\": %.3f, \"rss_mb\": %.0f, \"peak_gpu_gb\": %.3f, ",
              meter.first_step_s(), meter.captured_step_s(), benchmark_train::peak_rss_mb(), meter.peak_gpu_gb());
  std::printf("\"reserved_gpu_gb\": %.3f}\n", meter.reserved_gpu_gb());
}

}  // namespace

int main(int argc, char** argv) {
  benchmark_train::Settings settings;
  std::optional<int64_t> batch_size, length;
  int threads = 1;
  bool plain = false, graph = false, in_order = false;
  std::string attention = "cudnn", loss = "plain";
  CLI::App app("Milliseconds a step of a training loop.", "train");
  app.add_option("--task", settings.task)->required()->check(CLI::IsMember(benchmark_train::task_names()));
  app.add_option("--batch-size", batch_size, "of each process; default: the task's")->check(CLI::Range(1, 4096));
  app.add_option("--length", length, "tokens in a sample; default: the task's")->check(CLI::Range(1, 131'072));
  app.add_flag("--tiny", settings.tiny, "few narrow layers, for tests on a CPU");
  app.add_option("--mixed-precision", settings.precision, "no, bf16, fp16")->capture_default_str();
  app.add_option("--dropout", settings.dropout, "of bert, instead of 0.1")->check(CLI::Range(0.0, 1.0));
  app.add_option("--attention", attention, "back end to try first: cudnn, flash, or LibTorch's default")
      ->capture_default_str()
      ->check(CLI::IsMember({"cudnn", "flash", "default"}));
  app.add_option("--loss", loss, "of gpt2 and llama1b: plain is LibTorch's, over float32; fused is this library's")
      ->capture_default_str()
      ->check(CLI::IsMember({"plain", "fused"}));
  app.add_option("--steps", settings.steps, "measured steps, in 6 windows")
      ->capture_default_str()
      ->check(CLI::Range(6, 1'000'000));
  app.add_option("--warmup", settings.warmup, "steps before")->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_option("--losses", settings.losses, "so many of the first losses are printed")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--profile", settings.profile, "folder for the trace of 3 more steps, prepared loop only");
  app.add_option("--seed", settings.seed)->capture_default_str();
  app.add_option("--threads", threads, "of LibTorch's operators")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--backend", settings.backend, "between processes: gloo (always with --plain), shm, nccl");
  app.add_option("--started-at", settings.started_at, "system clock at exec, in ns, for first_step_s");
  auto* by_hand = app.add_flag("--plain", plain, "the hand-written loop");
  app.add_flag("--graph", graph, "with --plain: the whole step as one CUDA graph")->needs(by_hand);
  app.add_option("--comm-hook", settings.comm_hook, "of the prepared loop on several processes: bf16, fp16, ...")
      ->capture_default_str();
  app.add_option("--bucket-cap-mb", settings.bucket_cap_mb, "of gradients that travel together, prepared loop only")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 10'000.0));
  app.add_flag("--bucket-view", settings.bucket_view, "gradients live in the buckets, prepared loop only");
  app.add_flag("!--no-clip", settings.clip, "gradients are not clipped, prepared loop only");
  app.add_option("--workers", settings.workers, "threads of the prepared loop that make batches")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--cuda-graph", settings.cuda_graph, "the prepared loop asks for its graph")->excludes(by_hand);
  app.get_option("--profile")->excludes(by_hand);
  app.add_flag("--no-shuffle", in_order, "batches in the order of the data: losses of all loops agree");
  CLI11_PARSE(app, argc, argv);
  using benchmark_train::Loop;
  settings.loop = graph ? Loop::kPlainGraph : plain ? Loop::kPlain : Loop::kPrepared;
  settings.shuffle = !in_order;
  settings.fused_loss = loss == "fused";
  const benchmark_train::Task& task = benchmark_train::task_of(settings.task);
  const benchmark_train::Shape shape = settings.tiny ? task.tiny : task.full;
  settings.batch_size = batch_size.value_or(shape.batch_size);
  settings.length = length.value_or(shape.length);
  const int64_t world = launched("WORLD_SIZE", 1);
  at::set_num_threads(threads);
  prefer(attention);

  benchmark_train::Meter meter(settings);
  try {
    (plain ? benchmark_train::plain_loop : benchmark_train::prepared_loop)(settings, meter);
  } catch (const c10::Error& error) {
    std::cerr << "train: " << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "train: " << error.what() << "\n";
    return 1;
  }
  if (launched("RANK", 0) != 0) return 0;
  print(settings, meter, world);
  return 0;
}
