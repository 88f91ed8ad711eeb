// `accelerator.gather` of a nested batch of 20 tensors and of one tensor of as many bytes, and gather, broadcast,
// padding and objects of 1 kB and of 10 MB, in the processes that a launcher started. One JSON line: median
// microseconds a call. benchmarks/peer/gather.py does the same in Python.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"

namespace {

constexpr int kWindows = 15;

double median_us(const std::function<void()>& call, int calls = 40) {
  for (int i = 0; i < calls; ++i) call();
  std::vector<double> windows;
  for (int window = 0; window < kWindows; ++window) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    windows.push_back(took.count() / calls);
  }
  std::nth_element(windows.begin(), windows.begin() + kWindows / 2, windows.end());
  return windows[kWindows / 2];
}

struct Message {
  const char* name;
  int64_t bytes;
  int calls;  ///< in a window
};
constexpr Message kMessages[] = {{"1kB", 1'000, 40}, {"10MB", 10'000'000, 3}};

/// `, "gather_1kB_us": 12.34, ...`
std::string verbs_json(const accelerate::Accelerator& accelerator) {
  std::ostringstream json;
  json.precision(2);
  json << std::fixed;
  for (const Message& message : kMessages) {
    const at::Tensor whole = torch::randn({message.bytes / 4});
    // What padding is for: all processes but the first lack half of it.
    const at::Tensor ragged = accelerator.is_main_process() ? whole : whole.narrow(0, 0, whole.numel() / 2);
    const std::vector<std::string> text(1, std::string(static_cast<size_t>(message.bytes), 'x'));
    const std::map<std::string, std::function<void()>> verbs{{"gather", [&] { accelerator.gather(whole); }},
                                                             {"broadcast", [&] { accelerator.broadcast(whole); }},
                                                             {"pad", [&] { accelerator.pad_across_processes(ragged); }},
                                                             {"object", [&] { accelerator.gather_object(text); }}};
    for (const auto& [verb, call] : verbs) {
      json << ", \"" << verb << "_" << message.name << "_us\": " << median_us(call, message.calls);
    }
  }
  return json.str();
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
    const std::string verbs = verbs_json(accelerator);
    if (accelerator.is_main_process()) {
      std::printf("{\"world\": %ld, \"tensors\": 20, \"bytes\": %ld, \"nested_us\": %.2f, \"flat_us\": %.2f%s}\n",
                  accelerator.num_processes(), static_cast<long>(flat.nbytes()), nested_us, flat_us, verbs.c_str());
    }
  } catch (const std::exception& error) {
    std::cerr << "gather: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
