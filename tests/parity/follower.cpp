#include "tests/parity/follower.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>

namespace parity {
namespace {

std::string text(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.17g", value);
  return buffer;
}

std::string text(bool value) { return value ? "true" : "false"; }

/// The largest deviations of this process at first micro-steps and later, by what was computed in.
class Worst {
 public:
  void add(const std::string& computed, bool first, double deviation) {
    const std::lock_guard lock(mutex_);
    double& worst = first ? found_[computed].first : found_[computed].second;
    worst = std::max(worst, deviation);
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const auto& [computed, deviations] : found_) {
      char line[120];
      std::snprintf(line, sizeof line, "%s%s: %.2g, then %.2g", all.empty() ? "" : "; ", computed.c_str(),
                    deviations.first, deviations.second);
      all += line;
    }
    return all;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::pair<double, double>> found_;
};
Worst& worst() {
  static Worst all;
  return all;
}

Tolerance tolerance_of(const Json& configuration) {
  const Json* optimizer = configuration.contains("optimizer") ? &configuration.at("optimizer") : nullptr;
  const bool searches = optimizer != nullptr && optimizer->is_object() && optimizer->contains("line_search_fn");
  if (searches && torch::cuda::is_available()) return Tolerance::of_line_search_on_gpu();
  return {configuration.at("dtype").get<std::string>(), configuration.at("mixed_precision").get<std::string>()};
}

}  // namespace

Follower::Follower(const Json& trace) : trace_(trace), tolerance_(tolerance_of(trace.at("configuration"))) {}

void Follower::differ(const std::string& what, const std::string& got, const std::string& expected) {
  if (differs()) return;
  difference_ = "micro-step " + std::to_string(step_) + ": " + what + ": got " + got + ", the original " + expected;
}

void Follower::compare(const std::string& what, double got, double expected) {
  const double tolerance = tolerance_.at(step_);
  const Json& configuration = trace_.at("configuration");
  const std::string precision = configuration.at("mixed_precision");
  worst().add(precision == "no" ? configuration.at("dtype").get<std::string>() : precision, step_ == 0,
              Tolerance::deviation(got, expected));
  if (Tolerance::within(tolerance, got, expected)) return;
  differ(what, text(got), text(expected) + " (tolerance " + text(tolerance) + ")");
}

void Follower::begin(int64_t epoch, int64_t batch, bool sync_gradients) {
  if (step_ >= trace_.at("epoch").size()) {
    differ("length", "one more", "ended");
    return;
  }
  const auto expected_epoch = trace_.at("epoch").at(step_).get<int64_t>();
  const auto expected_batch = trace_.at("batch").at(step_).get<int64_t>();
  const bool expected_sync = trace_.at("sync_gradients").at(step_);
  if (epoch != expected_epoch) differ("epoch", std::to_string(epoch), std::to_string(expected_epoch));
  if (batch != expected_batch) differ("batch", std::to_string(batch), std::to_string(expected_batch));
  if (sync_gradients != expected_sync) differ("sync_gradients", text(sync_gradients), text(expected_sync));
}

void Follower::loss(const std::string& role, const at::Tensor& value) {
  if (differs()) return;
  compare("loss " + role, value.item<double>(), trace_.at("losses").at(role).at(step_));
}

void Follower::clipped(const std::string& role, const accelerate::ClipResult& result) {
  if (differs()) return;
  const bool synchronises = trace_.at("sync_gradients").at(step_);
  if (result.accumulated == synchronises) differ("clipped " + role, text(!result.accumulated), text(synchronises));
  if (!trace_.contains("norms")) return;
  const Json& expected = trace_.at("norms").at(role).at(step_);
  if (result.norm.defined() == expected.is_null()) {
    differ("norm " + role, result.norm.defined() ? "a norm" : "none", expected.is_null() ? "none" : "a norm");
    return;
  }
  if (expected.is_string()) {
    if (std::isfinite(result.norm.item<double>())) differ("norm " + role, "a finite one", expected);
    return;
  }
  if (!expected.is_null()) compare("norm " + role, result.norm.item<double>(), expected);
}

void Follower::stepped(const accelerate::StepResult& result) {
  if (differs()) return;
  const bool synchronises = trace_.at("sync_gradients").at(step_);
  const bool skipped = trace_.at("step_was_skipped").at(step_);
  // What the original records goes on through the micro-steps that accumulate.
  const bool expected = synchronises && skipped;
  if (result.skipped() != expected) differ("step skipped", text(result.skipped()), text(expected));
  if (result.accumulated() == synchronises) differ("step accumulated", text(result.accumulated()), text(!synchronises));
  const bool applied = synchronises && !skipped;
  if (result.applied() != applied) differ("step applied", text(result.applied()), text(applied));
}

void Follower::scaled(const accelerate::Accelerator& accelerator) {
  if (differs() || !trace_.contains("scale")) return;
  ++scales_;
  const double got = accelerator.scaler() ? accelerator.scaler()->get_scale() : 0;
  const double expected = trace_.at("scale").at(step_);
  if (got != expected) differ("scale of the loss", text(got), text(expected) + " exactly");
  const bool skipped = accelerator.optimizer_step_was_skipped(), original = trace_.at("step_was_skipped").at(step_);
  if (skipped != original) differ("optimizer_step_was_skipped", text(skipped), text(original));
}

void Follower::compare_rates(const std::string& what, const torch::optim::Optimizer& optimizer, const Json& expected) {
  const auto& groups = optimizer.param_groups();
  if (groups.size() != expected.size()) {
    differ(what, std::to_string(groups.size()) + " groups", std::to_string(expected.size()) + " groups");
    return;
  }
  for (size_t group = 0; group < groups.size(); ++group) {
    const double got = groups[group].options().get_lr();
    const double original = expected.at(group);
    if (got != original) differ(what + " of group " + std::to_string(group), text(got), text(original) + " exactly");
  }
}

void Follower::initial_rates(const std::string& role, const torch::optim::Optimizer& optimizer) {
  compare_rates("initial learning rate " + role, optimizer, trace_.at("initial_learning_rates").at(role));
}

void Follower::rates(const std::string& role, const torch::optim::Optimizer& optimizer) {
  if (differs()) return;
  Json expected = Json::array();
  for (const Json& column : trace_.at("learning_rates").at(role)) expected.push_back(column.at(step_));
  compare_rates("learning rate " + role, optimizer, expected);
}

void Follower::evaluated(const Json& losses, int64_t rows) {
  if (differs()) return;
  const Json& expected = trace_.at("evaluations").at(evaluations_++);
  if (rows != expected.at("rows")) differ("rows evaluated", std::to_string(rows), expected.at("rows").dump());
  if (losses.size() != expected.at("losses").size()) {
    differ("batches evaluated", std::to_string(losses.size()), std::to_string(expected.at("losses").size()));
    return;
  }
  for (size_t i = 0; i < losses.size(); ++i) compare("evaluation loss", losses.at(i), expected.at("losses").at(i));
}

void Follower::finished(const std::string& role, const torch::nn::Module& model) {
  if (differs()) return;
  ++finished_;
  std::map<std::string, at::Tensor> state;
  for (const auto& entry : model.named_parameters()) state[entry.key()] = entry.value();
  for (const auto& entry : model.named_buffers()) state[entry.key()] = entry.value();
  const Json& expected = trace_.at("final_state").at(role);
  for (const auto& [key, values] : expected.items()) {
    if (!state.contains(key)) {
      differ("final state " + role, "no " + key, key);
      continue;
    }
    const at::Tensor got = state.at(key).detach().cpu().to(at::kDouble).flatten().contiguous();
    if (static_cast<size_t>(got.numel()) != values.size()) {
      differ("size of " + key, std::to_string(got.numel()), std::to_string(values.size()));
      continue;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      compare("final " + key + "[" + std::to_string(i) + "]", got.const_data_ptr<double>()[i], values.at(i));
    }
  }
  if (state.size() != expected.size()) {
    differ("size of the final state " + role, std::to_string(state.size()), std::to_string(expected.size()));
  }
}

std::string worst_deviations() { return worst().text(); }

std::string Follower::difference() const {
  if (differs()) return difference_;
  if (step_ != trace_.at("epoch").size()) {
    return "ended after " + std::to_string(step_) + " micro-steps, the original after " +
           std::to_string(trace_.at("epoch").size());
  }
  if (trace_.contains("scale") && scales_ != step_) return "some scales of the loss were not compared";
  if (finished_ != trace_.at("final_state").size()) return "the final state of some models was not compared";
  if (evaluations_ != (trace_.contains("evaluations") ? trace_.at("evaluations").size() : 0)) {
    return "some evaluations were not replayed";
  }
  return "";
}

}  // namespace parity
