// `accelerator.gather` of a nested batch of 20 tensors and of one tensor of as many bytes, in the processes that a
// launcher started. One JSON line: median microseconds a call. benchmarks/peer/gather.py does the same in Python.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"

namespace {

constexpr int kWindows = 15, kCalls = 40;

double median_us(const std::function<void()>& call) {
  for (int i = 0; i < kCalls; ++i) call();
  std::vector<double> windows;
  for (int window = 0; window < kWindows; ++window) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i) call();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    windows.push_back(took.count() / kCalls);
  }
  std::nth_element(windows.begin(), windows.begin() + kWindows / 2, windows.end());
  return windows[kWindows / 2];
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(1);
  try {
    accelerate::AcceleratorOptions options;
    if (argc > 1) options.init_process_group.backend = argv[1];
    const accelerate::Accelerator accelerator(options);
    std::map<std::string, std::vector<at::Tensor>> nested;
    for (const char* name : {"inputs", "labels", "masks", "weights"}) {
      for (int i = 0; i < 5; ++i) nested[name].push_back(torch::randn({64, 32}));
    }
    const at::Tensor flat = torch::randn({64, 640});
    const double nested_us = median_us([&] { accelerator.gather(nested); });
    const double flat_us = median_us([&] { accelerator.gather(flat); });
    if (accelerator.is_main_process()) {
      std::printf("{\"world\": %ld, \"tensors\": 20, \"bytes\": %ld, \"nested_us\": %.2f, \"flat_us\": %.2f}\n",
                  accelerator.num_processes(), static_cast<long>(flat.nbytes()), nested_us, flat_us);
    }
  } catch (const std::exception& error) {
    std::cerr << "gather: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
