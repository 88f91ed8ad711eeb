#include "accelerate/plan_agreement.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

/// Ranks that differ in these take different numbers of steps, have different rates, or exchange different tensors.
constexpr std::array<const char*, 16> kShared{"num_processes",
                                              "strategy",
                                              "mixed_precision",
                                              "loss_scaling",
                                              "gradient_accumulation_steps",
                                              "sync_with_dataloader",
                                              "adjust_scheduler",
                                              "sync_each_batch",
                                              "divide_by",
                                              "even_batches",
                                              "split_batches",
                                              "step_scheduler_with_optimizer",
                                              "debug",
                                              "use_seedable_sampler",
                                              "data_seed",
                                              "rng_types"};

std::string list(const std::vector<size_t>& ranks) {
  constexpr size_t kShown = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < std::min(ranks.size(), kShown); ++i) text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  return ranks.size() > kShown ? text + " and " + std::to_string(ranks.size() - kShown) + " more" : text;
}

/// "2 (argument) on rank 0, 4 (environment X) on rank 1"; empty if all say the same value.
std::string difference(const std::vector<std::vector<std::string>>& ranks, size_t field) {
  std::vector<std::pair<std::string, std::vector<size_t>>> values;
  bool same = true;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    same = same && ranks[rank][2 * field] == ranks[0][2 * field];
    const std::string value = ranks[rank][2 * field] + " (" + ranks[rank][2 * field + 1] + ")";
    const auto known = std::ranges::find(values, value, [](const auto& one) { return one.first; });
    if (known == values.end()) {
      values.push_back({value, {rank}});
    } else {
      known->second.push_back(rank);
    }
  }
  std::string text;
  for (const auto& [value, who] : values) text += (text.empty() ? "" : ", ") + value + " on " + list(who);
  return same ? "" : text;
}

}  // namespace

void require_same_plan(const Group& group, const Fields& fields) {
  if (group.size() == 1) return;
  std::vector<std::string> own;
  for (const char* name : kShared) {
    own.push_back(fields.at(name).value);
    own.push_back(fields.at(name).source);
  }
  std::vector<std::vector<std::string>> ranks;
  for (const std::string& bytes : all_gather_bytes(group, join_texts(own))) ranks.push_back(split_texts(bytes));
  std::string found;
  for (size_t i = 0; i < kShared.size(); ++i) {
    const std::string differs = difference(ranks, i);
    if (!differs.empty()) found += (found.empty() ? "" : "; ") + std::string(kShared[i]) + " " + differs;
  }
  if (found.empty()) return;
  throw ConfigError({.place = "Accelerator",
                     .what = "The processes are not set up alike",
                     .got = found,
                     .expected = "the same on every rank",
                     .remedy = "Give all of them the same options and environment"});
}

}  // namespace accelerate::internal
