#include "accelerate/accelerator.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <iostream>

#include "accelerate/checkpoint/storage.h"
#include "accelerate/comm/copy.h"
#include "accelerate/comm/debug.h"
#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"
#include "accelerate/core/registry.h"
#include "accelerate/runtime.h"
#include "accelerate/tensor/out_of_memory.h"

namespace accelerate {
namespace {

constexpr const char* kModelFormat = "safetensors";

StorageFormat model_format() {
  const Registry<StorageFormat> formats("format", internal::builtin_formats());
  return *formats.find(kModelFormat);
}

std::string model_file_in(const std::string& directory) {
  return (std::filesystem::path(directory) / ("model" + model_format().extension)).string();
}

}  // namespace

Accelerator::Accelerator(AcceleratorOptions options)
    : runtime_(std::make_unique<internal::Runtime>(
          internal::resolve(options, Environment::of_process(), internal::Hardware::of_process()), options.log_sink)) {}

Accelerator::~Accelerator() {
  if (runtime_) runtime_->close();
}

Accelerator::Accelerator(Accelerator&&) noexcept = default;

Accelerator& Accelerator::operator=(Accelerator&& other) noexcept {
  if (this != &other) {
    if (runtime_) runtime_->close();
    runtime_ = std::move(other.runtime_);
  }
  return *this;
}

internal::Runtime& Accelerator::runtime() const {
  if (runtime_) return *runtime_;
  throw UsageError({.place = "Accelerator",
                    .what = "The Accelerator was moved from",
                    .got = "a call on the old object",
                    .expected = "it on the object it was moved to",
                    .remedy = "Use that one"});
}

void Accelerator::prepare_all(std::span<internal::PrepareItem> items, const PrepareOptions& options) {
  internal::place_items(items, options);
  runtime().prepare(items);
}

void Accelerator::release() { runtime().release(); }
void Accelerator::empty_cache() const { runtime().empty_cache(); }

namespace {

void require_own(const char* verb, const internal::ModelCore& model, const SyncSchedule& sync) {
  if (model.owner() == &sync) return;
  if (model.owner()->released()) model.owner()->require_open(verb);
  const std::string call = std::string(verb) + "()";
  throw UsageError({.place = verb,
                    .what = "The model was prepared by another Accelerator",
                    .got = "that Accelerator's handle",
                    .expected = "a model that this one prepared",
                    .remedy = "Call " + call + " of the Accelerator that prepared it"});
}

void require_own_all(const char* verb, const ModelList& models, const SyncSchedule& sync) {
  for (const ModelList::Entry& entry : models.entries()) require_own(verb, *entry.core(), sync);
}

std::vector<at::Tensor> parameters_of(const ModelList& models) {
  std::vector<at::Tensor> parameters;
  for (const ModelList::Entry& entry : models.entries()) {
    for (at::Tensor& parameter : entry.core()->trainable()) parameters.push_back(std::move(parameter));
  }
  return parameters;
}

/// In the order of `parameters_of`.
std::vector<std::string> names_of(const ModelList& models) {
  std::vector<std::string> names;
  for (const ModelList::Entry& entry : models.entries()) {
    for (std::string& name : entry.core()->trainable_names()) names.push_back(std::move(name));
  }
  return names;
}

}  // namespace

Accumulation Accelerator::accumulate_all(std::initializer_list<internal::ModelCore*> models) {
  const std::shared_ptr<SyncSchedule>& sync = runtime().sync();
  runtime().throw_kept_error();
  for (const internal::ModelCore* model : models) require_own("accumulate", *model, *sync);
  Accumulation window(sync);
  runtime().correct_window();
  if (!sync->communicates()) {
    // Models that are not named go on averaging every time. Source: `Accelerator.accumulate`.
    for (internal::ModelCore* model : models) model->accumulate_in(sync->window());
  }
  return window;
}

GradientSyncScope Accelerator::override_sync(const std::shared_ptr<internal::ModelCore>& model, GradientSync sync) {
  const char* verb = sync == GradientSync::kReduce ? "trigger_sync_in_backward" : "no_sync";
  runtime().sync()->require_open(verb);
  require_own(verb, *model, *runtime().sync());
  return GradientSyncScope(model, sync);
}

UnevenJoin Accelerator::join_uneven_inputs(const std::vector<Joinable>& joinables, JoinOptions options) {
  std::vector<std::shared_ptr<internal::ModelCore>> models;
  for (const Joinable& joinable : joinables) {
    require_own("join_uneven_inputs", *joinable.core(), *runtime().sync());
    models.push_back(joinable.core());
  }
  return runtime().join_uneven_inputs(models, options);
}

internal::StepBoundary Accelerator::step_boundary() {
  runtime().sync()->require_open("step");
  return internal::StepBoundary(runtime().steps(), [sync = runtime().sync()] { return sync->next_synchronizes(); });
}

CudaGraphReport Accelerator::cuda_graph_report() const {
  const auto& steps = runtime().steps();
  return steps ? steps->report() : CudaGraphReport{};
}

void Accelerator::backward(const at::Tensor& loss, BackwardOptions options) { runtime().backward(loss, options); }

ClipResult Accelerator::clip_grad_norm_(const std::vector<at::Tensor>& parameters, ClipNormOptions options) {
  runtime().sync()->require_open("clip_grad_norm_");
  runtime().throw_kept_error();
  if (!sync_gradients()) return {.norm = {}, .accumulated = true};
  return {.norm = runtime().clip_grad_norm(parameters, options), .accumulated = false};
}

ClipResult Accelerator::clip_grad_norm_(const ModelList& models, ClipNormOptions options) {
  runtime().sync()->require_open("clip_grad_norm_");
  runtime().throw_kept_error();
  require_own_all("clip_grad_norm_", models, *runtime().sync());
  if (!sync_gradients()) return {.norm = {}, .accumulated = true};
  const auto name = [&](size_t index) { return names_of(models).at(index); };
  const std::vector<at::Tensor> parameters = parameters_of(models);
  return {.norm = runtime().clip_grad_norm(parameters, options, name), .accumulated = false};
}

ClipResult Accelerator::clip_grad_value_(const ModelList& models, ClipValueOptions options) {
  runtime().sync()->require_open("clip_grad_value_");
  require_own_all("clip_grad_value_", models, *runtime().sync());
  return clip_grad_value_(parameters_of(models), options);
}

void Accelerator::unscale_gradients() {
  runtime().sync()->require_open("unscale_gradients");
  runtime().unscale_gradients();
}

bool Accelerator::optimizer_step_was_skipped() const { return runtime().optimizer_step_was_skipped(); }

ClipResult Accelerator::clip_grad_value_(const std::vector<at::Tensor>& parameters, ClipValueOptions options) {
  runtime().sync()->require_open("clip_grad_value_");
  runtime().throw_kept_error();
  if (!sync_gradients()) return {.norm = {}, .accumulated = true};
  runtime().unscale_gradients_of(parameters);
  internal::clip_grad_value(parameters, options);
  return {};
}

GradientStatistics Accelerator::gradient_statistics(const Optimizer& optimizer) const {
  runtime().sync()->require_open("gradient_statistics");
  const internal::OptimizerCore& core = *internal::held(optimizer.core(), "optimizer");
  if (&core.sync() != runtime().sync().get()) {
    throw UsageError({.place = "gradient_statistics",
                      .what = "The optimizer was prepared by another Accelerator",
                      .got = "that Accelerator's handle",
                      .expected = "an optimizer that this one prepared",
                      .remedy = "Call gradient_statistics() of the Accelerator that prepared it"});
  }
  optimizer.core()->unscale_gradients();
  return {.accumulated = !sync_gradients(), .groups = internal::gradient_statistics(core.inner())};
}

AutocastScope Accelerator::autocast(AutocastOptions options) const {
  return outside_scope(runtime().plan().precision.policy, device().type(), options);
}
AutocastScope Accelerator::autocast() const { return autocast(runtime().plan().precision.policy.autocast); }

Profiler Accelerator::profile(ProfileKwargs options) const {
  return Profiler(std::move(options), {.group = runtime().group(),
                                       .log = runtime().log(),
                                       .cuda_devices = internal::Hardware::of_process().cuda_devices});
}
Profiler Accelerator::profile() const { return profile(runtime().plan().profile); }

namespace {

/// While it lives, what goes on between ranks is no part of a captured step; what comes before it in the step has been
/// launched.
class OutOfStep {
 public:
  OutOfStep(const internal::Runtime& runtime, const char* operation) {
    if (!runtime.steps() || runtime.group().size() == 1) return;
    runtime.steps()->before_read(operation);
    unobserved_.emplace();
  }

 private:
  std::optional<internal::Unobserved> unobserved_;
};

}  // namespace

void Accelerator::require_same_call(const char* operation, const std::string& arguments) const {
  if (runtime().plan().debug) internal::require_same_call(runtime().group(), operation, arguments);
}

void Accelerator::verify(const char* operation, internal::TensorList tensors, const std::string& arguments) const {
  const Group& group = runtime().group();
  require_same_call(operation, arguments);
  if (runtime().plan().debug || internal::needs_comparison(group)) {
    internal::require_equal_shapes(group, operation, tensors);
  }
}

namespace {

template <class F>
void in_collective(const internal::Runtime& runtime, F&& exchange) {
  internal::explaining_memory(runtime.memory(), internal::MemoryPhase::kCollective, std::forward<F>(exchange));
}

}  // namespace

void Accelerator::gather_tensors(internal::TensorList tensors) const {
  const OutOfStep apart(runtime(), "gather");
  verify("gather", tensors);
  in_collective(runtime(), [&] { internal::gather_all(runtime().group(), tensors); });
}

std::optional<int64_t> Accelerator::metrics_kept() const {
  const ActiveLoaders& loaders = runtime().active_loaders();
  if (!loaders.end_of_dataloader()) return std::nullopt;
  const int64_t remainder = loaders.remainder();
  if (remainder == -1) {
    runtime().log().info(
        "gather_for_metrics: the loader drops its last short batch, so nothing is cut off the gathered one");
  }
  return remainder > 0 ? std::optional(remainder) : std::nullopt;
}

void Accelerator::gather_tensors_for_metrics(internal::TensorList tensors) const {
  gather_tensors(tensors);
  const std::optional<int64_t> kept = metrics_kept();
  for (at::Tensor* tensor : tensors) {
    if (!kept || !tensor->defined() || tensor->dim() == 0 || tensor->size(0) <= *kept) continue;
    *tensor = tensor->narrow(0, 0, *kept);
  }
}

internal::GatheredBytes Accelerator::gather_bytes(const char* operation, const std::string& own) const {
  const OutOfStep apart(runtime(), operation);
  require_same_call(operation, "");
  return internal::gather_bytes(runtime().group(), own);
}

void Accelerator::reduce_tensors(internal::TensorList tensors, const ReduceOptions& options) const {
  const OutOfStep apart(runtime(), "reduce");
  std::ostringstream arguments;
  arguments << '"' << options.reduction << "\", scale " << options.scale;
  verify("reduce", tensors, arguments.str());
  in_collective(runtime(), [&] { internal::reduce_all(runtime().group(), tensors, options); });
}

void Accelerator::broadcast_tensors(internal::TensorList tensors, int64_t from_process) const {
  const OutOfStep apart(runtime(), "broadcast");
  verify("broadcast", tensors, "from process " + std::to_string(from_process));
  in_collective(runtime(), [&] { internal::broadcast_all(runtime().group(), tensors, from_process); });
}

std::string Accelerator::broadcast_bytes(std::string own, int64_t from_process) const {
  const OutOfStep apart(runtime(), "broadcast_object_list");
  internal::require_process("broadcast_object_list", runtime().group(), from_process);
  require_same_call("broadcast_object_list", "from process " + std::to_string(from_process));
  return internal::broadcast_bytes(runtime().group(), std::move(own), from_process);
}

at::Tensor Accelerator::copy_tensor_to_devices(const at::Tensor& tensor) const {
  const OutOfStep apart(runtime(), "copy_tensor_to_devices");
  require_same_call("copy_tensor_to_devices", "");
  return internal::copy_from_the_one(runtime().group(), tensor, device());
}

void Accelerator::pad_tensors(internal::TensorList tensors, const PadOptions& options) const {
  const OutOfStep apart(runtime(), "pad_across_processes");
  const Group& group = runtime().group();
  if (runtime().plan().debug && group.core() != nullptr) {
    std::ostringstream arguments;
    arguments << "dim " << options.dim << ", pad_index " << options.pad_index
              << (options.pad_first ? ", in front" : ", behind");
    require_same_call("pad_across_processes", arguments.str());
    internal::require_equal_forms(group, "pad_across_processes", tensors);
  }
  in_collective(runtime(), [&] { internal::pad_all(group, tensors, options); });
}

void Accelerator::wait_for_everyone() const {
  const OutOfStep apart(runtime(), "wait_for_everyone");
  runtime().throw_kept_error();
  require_same_call("wait_for_everyone", "");
  runtime().group().barrier();
}

Logger Accelerator::get_logger(const std::string& name, LoggerOptions options) const {
  return Logger({.name = name,
                 .level = options.log_level.value_or(runtime().plan().setup.log_level.value_or(LogLevel::kWarning)),
                 .group = runtime().group(),
                 .lines = runtime().log().sink()},
                std::move(options.sink));
}

std::string Accelerator::text_of(const at::Tensor& tensor) {
  std::ostringstream out;
  if (!tensor.defined() || tensor.dim() != 0 || tensor.is_complex()) {
    out << tensor;
  } else if (at::isFloatingType(tensor.scalar_type())) {
    out << tensor.item<double>();
  } else {
    out << tensor.item<int64_t>();
  }
  return out.str();
}

void Accelerator::print_line(const std::string& line) { std::cout << line << '\n'; }

void Accelerator::save_model_core(internal::ModelCore& model, const std::string& directory) const {
  if (directory.empty()) {
    throw UsageError({.place = "save_model",
                      .what = "The folder has no name",
                      .got = "\"\"",
                      .expected = "a folder, which is created if it is missing",
                      .remedy = "Pass \".\" for the current one"});
  }
  runtime().throw_kept_error();
  internal::write_model(model.strategy(), runtime().group(), model_format(), model_file_in(directory));
}

LoadModelResult Accelerator::load_model_core(internal::ModelCore& model, const std::string& path,
                                             LoadModelOptions options) const {
  std::error_code unreadable;  // then the file itself says why
  const std::string file = std::filesystem::is_directory(path, unreadable) ? model_file_in(path) : path;
  return internal::read_model(model.strategy(), model_format(), file, options);
}

void Accelerator::end_training() {
  runtime().close();
  runtime().throw_kept_error();
}

}  // namespace accelerate
