#include "benchmarks/train/meter.h"

#include <ATen/DeviceAccelerator.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

namespace benchmark_train {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Seconds since the process was started: exact when the starter told, else to the kernel's 10 ms.
double process_age(std::optional<int64_t> started_at) {
  if (started_at) {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    return 1e-9 * (std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch).count() - *started_at);
  }
  std::ifstream stat("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;  // field 22: start time in clock ticks since boot
  timespec boot;
  clock_gettime(CLOCK_BOOTTIME, &boot);
  return boot.tv_sec + 1e-9 * boot.tv_nsec - std::stod(field) / sysconf(_SC_CLK_TCK);
}

/// A GPU works behind the host's back.
void finish(const at::Tensor& loss) {
  if (loss.is_cuda()) torch::cuda::synchronize(loss.get_device());
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

bool Meter::step(const at::Tensor& loss) {
  const double came = now();
  ++steps_;
  if (alone_since_) return timed_alone(loss, came);
  if (steps_ <= settings_.losses) losses_.push_back(loss.item<double>());
  if (steps_ == 1) {
    finish(loss);
    first_step_s_ = process_age(settings_.started_at);
  }
  if (steps_ == kCapturedSteps) {
    finish(loss);
    captured_step_s_ = process_age(settings_.started_at);
  }
  const int64_t measured = steps_ - settings_.warmup, window = settings_.steps / kWindows;
  if (measured == 0 || (measured > 0 && measured % window == 0)) finish(loss);
  if (measured == 0) window_start_ = now();
  if (measured <= 0 || measured % window != 0) return false;
  const double end = now();
  windows_ms_.push_back(1e3 * (end - window_start_) / window);
  window_start_ = end;
  if (windows_ms_.size() < kWindows) return false;
  loss_last_ = loss.item<double>();
  alone_since_ = now();
  return false;
}

bool Meter::timed_alone(const at::Tensor& loss, double came) {
  host_ms_.push_back(1e3 * (came - *alone_since_));
  finish(loss);
  alone_since_ = now();
  if (host_ms_.size() < kHostSteps) return false;
  if (loss.is_cuda()) {
    const auto stats = at::accelerator::getDeviceStats(loss.get_device());
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    peak_gpu_gb_ = 1e-9 * static_cast<double>(stats.allocated_bytes[all].peak);
    reserved_gpu_gb_ = 1e-9 * static_cast<double>(stats.reserved_bytes[all].peak);
  }
  return true;
}

double Meter::median_ms() const { return median(windows_ms_); }
double Meter::host_ms() const { return median(host_ms_); }
double Meter::min_ms() const { return *std::min_element(windows_ms_.begin(), windows_ms_.end()); }

double peak_rss_mb() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "VmHWM:") continue;
    double kib = 0;
    status >> kib;
    return kib * 1024 / 1e6;
  }
  return 0;
}

}  // namespace benchmark_train
