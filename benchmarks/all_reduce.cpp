// All-reduce of floats, and the other collectives of a small step, between processes of this host, over every transport
// for CPU tensors in turn in one run. One JSON line a size: median microseconds of each transport.
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <vector>

#include "accelerate/comm/backend.h"

namespace {

using accelerate::internal::BackendEntry;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

struct Settings {
  int ranks = 2;
  int64_t most_bytes = 40 << 20;
  std::vector<std::string> transports;
};

struct Transport {
  std::string name;
  BackendPtr backend;
};

std::vector<Transport> connect(const Settings& settings, int rank, const std::string& folder) {
  std::vector<Transport> transports;
  const auto store = c10::make_intrusive<c10d::FileStore>(folder + "/store", settings.ranks);
  for (const BackendEntry& entry : accelerate::internal::builtin_backends()) {
    const auto& wanted = settings.transports;
    if (entry.device_type != c10::kCPU) continue;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), entry.name) == wanted.end()) continue;
    const auto made = entry.make({.store = c10::make_intrusive<c10d::PrefixStore>(entry.name, store),
                                  .rank = rank,
                                  .size = settings.ranks,
                                  .timeout = std::chrono::minutes(1),
                                  .device = c10::Device(c10::kCPU),
                                  .group = "benchmark"});
    if (made.backend) {
      transports.push_back({entry.name, made.backend});
    } else if (rank == 0) {
      std::cerr << entry.name << ": " << made.refusal << "\n";
    }
  }
  return transports;
}

// Medians of `windows` windows of `calls` calls, the transports taking turns.
std::vector<double> median_us(const std::vector<Transport>& transports, int windows, int64_t calls,
                              const std::function<c10::intrusive_ptr<c10d::Work>(c10d::Backend&)>& call) {
  std::vector<std::vector<double>> times(transports.size());
  for (int window = -1; window < windows; ++window) {
    for (size_t i = 0; i < transports.size(); ++i) {
      transports[i].backend->barrier()->wait();
      const auto start = std::chrono::steady_clock::now();
      for (int64_t n = 0; n < calls; ++n) call(*transports[i].backend)->wait();
      const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start;
      if (window >= 0) times[i].push_back(elapsed.count() / calls);  // the first warms up
    }
  }
  std::vector<double> medians;
  for (auto& values : times) {
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    medians.push_back(values[values.size() / 2]);
  }
  return medians;
}

void print(int rank, int ranks, const char* operation, size_t bytes, const std::vector<Transport>& transports,
           const std::vector<double>& us) {
  if (rank != 0) return;
  std::printf("{\"operation\": \"%s\", \"ranks\": %d, \"bytes\": %zu", operation, ranks, bytes);
  for (size_t i = 0; i < transports.size(); ++i) std::printf(", \"%s_us\": %.2f", transports[i].name.c_str(), us[i]);
  std::printf("}\n");
  std::fflush(stdout);
}

void measure(const Settings& settings, int rank, const std::string& folder) {
  at::set_num_threads(1);
  const std::vector<Transport> transports = connect(settings, rank, folder);
  const auto report = [&](const char* operation, size_t bytes, int64_t calls, const auto& call) {
    print(rank, settings.ranks, operation, bytes, transports, median_us(transports, 11, calls, call));
  };
  for (int64_t bytes = 4; bytes <= settings.most_bytes; bytes = bytes == (32 << 20) ? 40 << 20 : bytes * 2) {
    std::vector<at::Tensor> tensors{at::zeros({bytes / 4})};
    const int64_t calls = std::clamp<int64_t>((4 << 20) / bytes, 1, 200);
    report("all_reduce", bytes, calls, [&](c10d::Backend& backend) { return backend.allreduce(tensors); });
  }
  report("barrier", 0, 200, [](c10d::Backend& backend) { return backend.barrier(); });
  for (const int64_t bytes : {1 << 10, 64 << 10, 1 << 20}) {
    std::vector<at::Tensor> input{at::zeros({bytes / 4})};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int i = 0; i < settings.ranks; ++i) outputs[0].push_back(at::zeros({bytes / 4}));
    report("all_gather", bytes, 50, [&](c10d::Backend& backend) { return backend.allgather(outputs, input); });
    report("broadcast", bytes, 50, [&](c10d::Backend& backend) { return backend.broadcast(input); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Microseconds of collectives between processes of this host.", "all_reduce");
  app.add_option("--ranks", settings.ranks)->capture_default_str()->check(CLI::Range(2, 64));
  app.add_option("--most-bytes", settings.most_bytes, "of the longest tensor")->capture_default_str();
  app.add_option("--transports", settings.transports, "their names, all without");
  CLI11_PARSE(app, argc, argv);

  std::string folder = (std::filesystem::temp_directory_path() / "all_reduce.XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    std::cerr << "all_reduce: no folder like " << folder << "\n";
    return 1;
  }
  // Before LibTorch starts a thread.
  int rank = 0;
  for (int child = 1; child < settings.ranks && rank == 0; ++child) {
    if (::fork() == 0) rank = child;
  }
  int failed = 0;
  try {
    measure(settings, rank, folder);
  } catch (const std::exception& error) {
    std::cerr << "all_reduce: rank " << rank << ": " << error.what() << "\n";
    failed = 1;
  }
  if (rank != 0) return failed;
  for (int status = 0; ::wait(&status) > 0;) failed |= status != 0;
  std::filesystem::remove_all(folder);
  return failed;
}
