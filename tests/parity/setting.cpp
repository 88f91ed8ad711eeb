#include "tests/parity/setting.h"

#include <map>
#include <stdexcept>
#include <type_traits>

namespace parity {
namespace {

template <class Options>
Options adaptive_options(const Json& description) {
  Options options(description.at("lr").get<double>());
  if (description.contains("betas")) {
    options.betas(std::tuple<double, double>(description["betas"].at(0), description["betas"].at(1)));
  }
  if (description.contains("eps")) options.eps(description["eps"].get<double>());
  if (description.contains("weight_decay")) options.weight_decay(description["weight_decay"].get<double>());
  if (description.contains("amsgrad")) options.amsgrad(description["amsgrad"].get<bool>());
  return options;
}

torch::optim::SGDOptions sgd_options(const Json& description) {
  torch::optim::SGDOptions options(description.at("lr").get<double>());
  if (description.contains("momentum")) options.momentum(description["momentum"].get<double>());
  if (description.contains("nesterov")) options.nesterov(description["nesterov"].get<bool>());
  if (description.contains("weight_decay")) options.weight_decay(description["weight_decay"].get<double>());
  return options;
}

torch::optim::AdagradOptions adagrad_options(const Json& description) {
  torch::optim::AdagradOptions options(description.at("lr").get<double>());
  if (description.contains("lr_decay")) options.lr_decay(description["lr_decay"].get<double>());
  if (description.contains("weight_decay")) options.weight_decay(description["weight_decay"].get<double>());
  if (description.contains("initial_accumulator_value")) {
    options.initial_accumulator_value(description["initial_accumulator_value"].get<double>());
  }
  if (description.contains("eps")) options.eps(description["eps"].get<double>());
  return options;
}

torch::optim::LBFGSOptions lbfgs_options(const Json& description) {
  torch::optim::LBFGSOptions options(description.at("lr").get<double>());
  options.max_iter(description.at("max_iter").get<int64_t>());
  options.history_size(description.at("history_size").get<int64_t>());
  if (description.contains("tolerance_grad")) options.tolerance_grad(description["tolerance_grad"].get<double>());
  if (description.contains("tolerance_change")) options.tolerance_change(description["tolerance_change"].get<double>());
  if (description.contains("line_search_fn")) options.line_search_fn(description["line_search_fn"].get<std::string>());
  return options;
}

/// One LibTorch optimizer of that type; every group starts from the description and overrides parts of it.
template <class Optimizer, class MakeOptions>
std::unique_ptr<torch::optim::Optimizer> build(const Json& description, const NamedParameters& parameters,
                                               MakeOptions make_options) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  using Options = std::remove_cv_t<decltype(make_options(description))>;
  const Options defaults = make_options(description);
  if (!description.contains("groups")) {
    std::vector<at::Tensor> all;
    for (const auto& [name, parameter] : parameters) all.push_back(parameter);
    groups.emplace_back(all);
  } else {
    const std::map<std::string, at::Tensor> named(parameters.begin(), parameters.end());
    for (const Json& group : description["groups"]) {
      std::vector<at::Tensor> own;
      for (const Json& name : group.at("parameters")) own.push_back(named.at(name));
      Json merged = description;
      merged.update(group);
      groups.emplace_back(own, std::make_unique<Options>(make_options(merged)));
    }
  }
  return std::make_unique<Optimizer>(std::move(groups), defaults);
}

}  // namespace

accelerate::GradScalerKwargs scaler_options(const Json& description) {
  accelerate::GradScalerKwargs options;
  options.init_scale = description.value("init_scale", options.init_scale);
  options.growth_factor = description.value("growth_factor", options.growth_factor);
  options.backoff_factor = description.value("backoff_factor", options.backoff_factor);
  options.growth_interval = description.value("growth_interval", options.growth_interval);
  options.enabled = description.value("enabled", options.enabled);
  return options;
}

accelerate::AcceleratorOptions accelerator_options(const Json& configuration, accelerate::AcceleratorOptions options) {
  options.mixed_precision = configuration.at("mixed_precision").get<std::string>();
  options.step_scheduler_with_optimizer = configuration.at("step_scheduler_with_optimizer");
  const int64_t steps = configuration.at("gradient_accumulation_steps");
  const bool with_dataloader = configuration.at("sync_with_dataloader");
  const bool each_batch = configuration.value("sync_each_batch", false);
  if (with_dataloader && !each_batch) {
    options.gradient_accumulation_steps = steps;
  } else {
    options.gradient_accumulation_plugin = accelerate::GradientAccumulationPlugin{
        .num_steps = steps, .sync_with_dataloader = with_dataloader, .sync_each_batch = each_batch};
  }
  if (configuration.contains("scaler")) options.scaler_handler = scaler_options(configuration["scaler"]);
  if (configuration.contains("dataloader_config")) {
    const Json& given = configuration["dataloader_config"];
    options.dataloader_config = accelerate::DataLoaderConfiguration{
        .even_batches = given.value("even_batches", true), .split_batches = given.value("split_batches", false)};
  }
  return options;
}

NamedParameters named_parameters(const torch::nn::Module& module, const std::string& prefix) {
  NamedParameters named;
  for (const auto& entry : module.named_parameters()) named.emplace_back(prefix + entry.key(), entry.value());
  return named;
}

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const Json& description, const NamedParameters& parameters) {
  const std::string kind = description.at("kind");
  if (kind == "SGD") return build<torch::optim::SGD>(description, parameters, sgd_options);
  if (kind == "Adam") {
    return build<torch::optim::Adam>(description, parameters, adaptive_options<torch::optim::AdamOptions>);
  }
  if (kind == "AdamW") {
    return build<torch::optim::AdamW>(description, parameters, adaptive_options<torch::optim::AdamWOptions>);
  }
  if (kind == "Adagrad") return build<torch::optim::Adagrad>(description, parameters, adagrad_options);
  if (kind == "LBFGS") return build<torch::optim::LBFGS>(description, parameters, lbfgs_options);
  throw std::runtime_error("a fixture names the optimizer '" + kind + "', which is not known here");
}

accelerate::Schedule make_schedule(const Json& description) {
  const std::string kind = description.at("kind");
  const int64_t warmup = description.at("warmup_steps");
  if (kind == "constant") return accelerate::constant({.warmup_steps = warmup});
  const int64_t total = description.at("total_steps");
  if (kind == "linear") return accelerate::linear({.warmup_steps = warmup, .total_steps = total});
  if (kind == "cosine") {
    return accelerate::cosine(
        {.warmup_steps = warmup, .total_steps = total, .num_cycles = description.at("num_cycles")});
  }
  throw std::runtime_error("a fixture names the schedule '" + kind + "', which is not known here");
}

bool has_schedule(const Json& configuration) { return configuration.at("scheduler").at("kind") != "none"; }

bool clips(const Json& configuration) { return configuration.at("clip").at("kind") != "none"; }

at::Tensor make_loss(const std::string& name, const at::Tensor& output, const at::Tensor& target) {
  namespace functional = torch::nn::functional;
  if (name == "mse") return functional::mse_loss(output, target);
  if (name == "cross_entropy") return functional::cross_entropy(output, target);
  if (name == "binary_cross_entropy") return functional::binary_cross_entropy_with_logits(output, target);
  throw std::runtime_error("a fixture names the loss '" + name + "', which is not known here");
}

Loader make_loader(const Json& configuration, const Json& problem, int64_t samples, bool drop_last) {
  const at::ScalarType dtype = dtype_named(configuration.at("dtype"));
  const bool images = configuration.at("models").at(0) == "convolution";
  const at::Tensor inputs = array(problem.at(images ? "images" : "inputs"), dtype);
  const at::Tensor targets = configuration.at("loss") == "cross_entropy"
                                 ? torch::tensor(problem.at("labels").get<std::vector<int64_t>>())
                                 : array(problem.at("targets"), dtype);
  return Loader(accelerate::TensorDataset(inputs.narrow(0, 0, samples), targets.narrow(0, 0, samples)),
                {.batch_size = configuration.at("batch_size"), .drop_last = drop_last});
}

}  // namespace parity
