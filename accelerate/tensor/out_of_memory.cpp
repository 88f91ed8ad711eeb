#include "accelerate/tensor/out_of_memory.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

/// "2.50 GiB" behind `before`, in bytes.
std::optional<int64_t> amount_behind(std::string_view text, std::string_view before) {
  const size_t found = text.find(before);
  if (found == std::string_view::npos) return std::nullopt;
  const std::string rest(text.substr(found + before.size(), 40));
  char* end = nullptr;
  const double number = std::strtod(rest.c_str(), &end);
  if (end == rest.c_str()) return std::nullopt;
  constexpr std::array<std::pair<std::string_view, double>, 5> kUnits{
      {{" bytes", 1.0}, {" KiB", 1024.0}, {" MiB", 0x1p20}, {" GiB", 0x1p30}, {" TiB", 0x1p40}}};
  for (const auto& [unit, bytes] : kUnits) {
    if (std::string_view(end).starts_with(unit)) return static_cast<int64_t>(number * bytes);
  }
  return std::nullopt;
}

/// The word before `behind` that `amount_behind` reads, as in "12.00 GiB allowed".
std::optional<int64_t> amount_before(std::string_view text, std::string_view behind) {
  const size_t found = text.find(behind);
  if (found == std::string_view::npos) return std::nullopt;
  const size_t unit = text.rfind(' ', found - 1);
  if (found == 0 || unit == std::string_view::npos || unit == 0) return std::nullopt;
  const size_t space = text.rfind(' ', unit - 1);
  const size_t begin = space == std::string_view::npos ? 0 : space + 1;
  return amount_behind(text.substr(begin), "");
}

const char* place_of(MemoryPhase phase) {
  switch (phase) {
    case MemoryPhase::kPrepare:
      return "prepare";
    case MemoryPhase::kForward:
      return "forward";
    case MemoryPhase::kBackward:
      return "backward";
    case MemoryPhase::kOptimizerStep:
      return "optimizer.step";
    case MemoryPhase::kCollective:
      return "collective";
  }
  return "";
}

const char* name_of(MemoryOwner owner) {
  switch (owner) {
    case MemoryOwner::kParameters:
      return "parameters and buffers";
    case MemoryOwner::kGradients:
      return "gradients";
    case MemoryOwner::kOptimizerState:
      return "optimizer state";
    case MemoryOwner::kBuckets:
      return "buckets of the gradients' exchange";
    case MemoryOwner::kAverages:
      return "averages of the weights";
  }
  return "";
}

/// The report's numbers, with what follows from them.
class Account {
 public:
  explicit Account(const OutOfMemory& report) : report_(report) {}

  int64_t of(MemoryOwner owner) const {
    for (const OwnedMemory& part : report_.owned) {
      if (part.owner == owner) return part.bytes;
    }
    return 0;
  }
  /// Allocated and nobody's here: activations, batches, tensors of the user's.
  int64_t activations() const {
    if (!report_.allocation.allocated) return 0;
    int64_t rest = *report_.allocation.allocated - report_.allocation.in_graphs.value_or(0);
    for (const OwnedMemory& part : report_.owned) rest -= part.bytes;
    return std::max<int64_t>(rest, 0);
  }
  int64_t cached() const { return report_.allocation.cached.value_or(0); }
  /// In use on the device, and not by LibTorch in this process.
  int64_t foreign() const {
    const FailedAllocation& a = report_.allocation;
    if (!a.total || !a.free || !a.allocated) return 0;
    return std::max<int64_t>(*a.total - *a.free - *a.allocated - cached(), 0);
  }
  /// What has to be given back.
  int64_t lacking() const {
    const FailedAllocation& a = report_.allocation;
    if (!a.asked) return std::numeric_limits<int64_t>::max();
    return std::max<int64_t>(*a.asked - a.free.value_or(0), 1);
  }

 private:
  const OutOfMemory& report_;
};

std::string owners_text(const OutOfMemory& report) {
  const Account account(report);
  std::vector<std::pair<int64_t, std::string>> parts;
  for (const OwnedMemory& part : report.owned) parts.emplace_back(part.bytes, name_of(part.owner));
  parts.emplace_back(account.activations(), "activations and others");
  parts.emplace_back(report.allocation.in_graphs.value_or(0), "CUDA graphs");
  parts.emplace_back(account.cached(), "cache");
  parts.emplace_back(account.foreign(), "outside LibTorch");
  std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  for (const auto& [bytes, name] : parts) {
    if (bytes > 0) text += (text.empty() ? "" : ", ") + name + " " + bytes_text(bytes);
  }
  return text;
}

std::vector<MemoryRemedy> possible_remedies(const OutOfMemory& report) {
  const Account account(report);
  const bool computes = report.phase == MemoryPhase::kForward || report.phase == MemoryPhase::kBackward;
  const int64_t activations = account.activations(), gradients = account.of(MemoryOwner::kGradients);
  const std::string held = bytes_text(activations);
  std::vector<MemoryRemedy> all;
  if (computes) {
    const std::string steps = std::to_string(report.setting.gradient_accumulation_steps);
    const std::string twice = std::to_string(2 * report.setting.gradient_accumulation_steps);
    all.push_back({activations / 2, "halve the batch and set .gradient_accumulation_steps = " + twice + " instead of " +
                                        steps + ", which halves the activations (" + held + ")"});
    if (!report.setting.narrow) {
      all.push_back(
          {activations / 2, "choose a .mixed_precision of 16 bits, which takes up to half of the activations"});
    }
  } else if (report.phase != MemoryPhase::kPrepare) {
    all.push_back({activations, "let go of outputs and of losses with their graph before this call: " + held +
                                    " are held that no step needs any more; keep loss.detach()"});
  } else {
    all.push_back({activations, "prepare before other tensors are put on the device: those take " + held});
  }
  if (report.phase == MemoryPhase::kForward && report.setting.first_micro_step) {
    all.push_back({gradients,
                   "call optimizer.zero_grad() before the forward, without .set_to_none = false: the last "
                   "update's gradients take " +
                       bytes_text(gradients)});
  }
  all.push_back({account.cached(), "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before the program starts: " +
                                       bytes_text(account.cached()) + " are cached in pieces that are too small"});
  all.push_back({account.foreign(), "end what else runs on the GPU (nvidia-smi lists it): " +
                                        bytes_text(account.foreign()) + " are in use outside LibTorch"});
  all.push_back({account.of(MemoryOwner::kOptimizerState), "choose an optimizer with less state, which takes " +
                                                               bytes_text(account.of(MemoryOwner::kOptimizerState)) +
                                                               " (plain SGD has none)"});
  all.insert(all.end(), report.remedies.begin(), report.remedies.end());
  std::erase_if(all, [](const MemoryRemedy& remedy) { return remedy.saves <= 0; });
  return all;
}

std::string remedies_text(const OutOfMemory& report) {
  constexpr size_t kMost = 3;
  std::vector<MemoryRemedy> remedies = possible_remedies(report);
  if (remedies.empty()) {
    return "Lower the batch size and raise .gradient_accumulation_steps, or let accelerate::find_executable_batch_size "
           "look for a size that fits";
  }
  std::stable_sort(remedies.begin(), remedies.end(),
                   [](const MemoryRemedy& a, const MemoryRemedy& b) { return a.saves > b.saves; });
  const int64_t lacking = Account(report).lacking();
  const bool one_is_enough = remedies.front().saves >= lacking;
  // Where each of some would do, the others are not worth the trouble.
  if (one_is_enough) std::erase_if(remedies, [&](const MemoryRemedy& remedy) { return remedy.saves < lacking; });
  if (remedies.size() > kMost) remedies.resize(kMost);
  std::string text = one_is_enough ? "To make it fit, " : "Each of these gives something back, but not enough alone: ";
  for (size_t i = 0; i < remedies.size(); ++i) {
    if (i > 0) text += one_is_enough ? "; or " : "; ";
    text += remedies[i].text;
  }
  return text;
}

/// What the text did not say, as it is now.
void complete(FailedAllocation& allocation, c10::Device device) {
  if (device.is_cpu()) return;
  c10::DeviceAllocator* const allocator =
      at::accelerator::getAccelerator() ? c10::getDeviceAllocator(device.type()) : nullptr;
  if (allocator == nullptr || !allocator->initialized()) return;
  constexpr size_t kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto stats = allocator->getDeviceStats(device.index());
  const int64_t allocated = stats.allocated_bytes[kAll].current;
  if (!allocation.allocated) allocation.allocated = allocated;
  if (!allocation.cached) allocation.cached = stats.reserved_bytes[kAll].current - allocated;
  if (allocation.free && allocation.total) return;
  const auto [free, total] = allocator->getMemoryInfo(device.index());
  if (!allocation.free) allocation.free = static_cast<int64_t>(free);
  if (!allocation.total) allocation.total = static_cast<int64_t>(total);
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  constexpr std::array<std::pair<const char*, double>, 3> kUnits{{{"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 1024.0}}};
  char text[40];
  for (const auto& [unit, size] : kUnits) {
    if (static_cast<double>(bytes) < size) continue;
    std::snprintf(text, sizeof text, "%.2f %s", static_cast<double>(bytes) / size, unit);
    return text;
  }
  return std::to_string(bytes) + " bytes";
}

FailedAllocation parse_failed_allocation(std::string_view text) {
  FailedAllocation found{.asked = amount_behind(text, "Tried to allocate "),
                         .free = amount_behind(text, " of which "),
                         .total = amount_behind(text, " has a total capacity of "),
                         .allocated = amount_behind(text, "Of the allocated memory "),
                         .in_graphs = amount_before(text, " allocated in private pools"),
                         .cached = amount_before(text, " is reserved by PyTorch but unallocated")};
  const auto allowed = amount_before(text, " allowed; ");
  if (allowed && found.allocated) {
    const int64_t left = std::max<int64_t>(*allowed - *found.allocated - found.cached.value_or(0), 0);
    found.free = std::min(found.free.value_or(left), left);
  }
  return found;
}

std::string out_of_memory_text(const OutOfMemory& report) {
  const FailedAllocation& a = report.allocation;
  std::string got = a.asked ? bytes_text(*a.asked) + " asked for" : "an allocation that failed";
  if (a.free) got += ", " + bytes_text(*a.free) + " free";
  if (a.total) got += " of " + bytes_text(*a.total);
  if (const std::string owners = owners_text(report); !owners.empty()) got += "; held by " + owners;
  return Error({.place = place_of(report.phase),
                .what = "The memory of " + report.device + " is used up",
                .got = got,
                .expected = {},
                .remedy = remedies_text(report)})
      .what();
}

void throw_explained(const c10::OutOfMemoryError& error, const std::shared_ptr<const MemoryOwners>& owners,
                     MemoryPhase phase) {
  if (owners == nullptr) throw;
  const std::string original = error.what_without_backtrace();
  OutOfMemory report{.phase = phase,
                     .device = owners->device().str(),
                     .allocation = parse_failed_allocation(original),
                     .owned = owners->owned(),
                     .remedies = owners->remedies(),
                     .setting = owners->setting()};
  complete(report.allocation, owners->device());
  throw ExplainedOutOfMemory({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                             out_of_memory_text(report) + "\n" + original);
}

}  // namespace accelerate::internal
