#include "accelerate/launch/gpus.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/core/env.h"
#include "accelerate/core/error.h"
#include "accelerate/launch/config.h"
#include "accelerate/launch/machine.h"

namespace accelerate::internal::launch {
namespace {

std::string there_are(int64_t gpus) {
  return gpus == 0   ? "this machine has no GPU"
         : gpus == 1 ? "this machine has 1 GPU"
                     : "this machine has " + std::to_string(gpus) + " GPUs";
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> words(1);
  for (const char c : list) {
    if (c == ',') {
      words.emplace_back();
    } else if (c != ' ') {
      words.back() += c;
    }
  }
  return words;
}

std::optional<int64_t> as_number(const std::string& word) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return number;
}

bool is_device_name(const std::string& word) { return word.starts_with("GPU-") || word.starts_with("MIG-"); }

/// As CUDA reads the variable: up to the first entry that is no device.
int64_t visible(const std::optional<std::string>& variable, int64_t gpus) {
  if (!variable || gpus == 0) return gpus;
  int64_t count = 0;
  for (const std::string& word : split(*variable)) {
    const auto number = as_number(word);
    if (number ? *number < 0 || *number >= gpus : !is_device_name(word)) break;
    ++count;
  }
  return count;
}

[[noreturn]] void refuse_ids(const std::string& ids, const std::string& what, const std::string& expected) {
  throw ConfigError({.place = "--gpu-ids",
                     .what = what,
                     .got = "\"" + ids + "\"",
                     .expected = expected,
                     .remedy = "Correct the list, or leave the option out to use all visible ones"});
}

int64_t listed(const std::string& ids, int64_t gpus) {
  const std::vector<std::string> words = split(ids);
  for (auto word = words.begin(); word != words.end(); ++word) {
    const auto number = as_number(*word);
    if (number ? *number < 0 : !is_device_name(*word)) {
      refuse_ids(ids, "This is no list of GPUs", "numbers with commas between them such as 0,1, or all");
    }
    if (std::find(words.begin(), word, *word) != word) {
      refuse_ids(ids, "A GPU is named twice", "each one once");
    }
    if (number && *number >= gpus) {
      refuse_ids(ids, "There is no GPU " + *word + ", " + there_are(gpus),
                 gpus == 1 ? "0" : "numbers from 0 to " + std::to_string(gpus - 1));
    }
  }
  return static_cast<int64_t>(words.size());
}

}  // namespace

int64_t gpus_to_use(const LaunchOptions& options, const Environment& environment, const Machine& machine) {
  const int64_t seen = visible(environment.text("CUDA_VISIBLE_DEVICES"), machine.gpus);
  if (!options.gpu_ids) return options.cpu ? 0 : seen;
  const std::string got = "--gpu-ids " + *options.gpu_ids;
  if (options.cpu) {
    throw ConfigError({.place = "--gpu-ids",
                       .what = "GPUs were chosen for a run on the CPU",
                       .got = got + " and --cpu",
                       .expected = "one of the two",
                       .remedy = "Leave one out"});
  }
  const bool all = *options.gpu_ids == kAllGpus;
  if ((all ? seen : machine.gpus) == 0) {
    throw ConfigError({.place = "--gpu-ids",
                       .what = "There are no GPUs to choose from, " +
                               (machine.gpus == 0 ? there_are(0) : "CUDA_VISIBLE_DEVICES hides all"),
                       .got = got,
                       .expected = "device files /dev/nvidia0 and up",
                       .remedy = "Leave the option out to train on the CPU"});
  }
  return all ? seen : listed(*options.gpu_ids, machine.gpus);
}

void require_gpu_each(int64_t processes, int64_t gpus) {
  if (gpus == 0 || processes <= gpus) return;
  const std::string there = gpus == 1 ? "1 GPU is" : std::to_string(gpus) + " GPUs are";
  throw ConfigError({.place = "--num-processes",
                     .what = "There are more processes on this machine than GPUs to use, one each",
                     .got = std::to_string(processes) + " processes where " + there + " visible",
                     .expected = "at most " + std::to_string(gpus),
                     .remedy = "Start fewer, or add --cpu to train on the CPU"});
}

}  // namespace accelerate::internal::launch
