#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <array>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/checkpoint/model_file.h"
#include "accelerate/comm/collectives.h"
#include "accelerate/comm/logger.h"
#include "accelerate/comm/objects.h"
#include "accelerate/comm/process_order.h"
#include "accelerate/comm/selected.h"
#include "accelerate/comm/split.h"
#include "accelerate/comm/state.h"
#include "accelerate/core/fields.h"
#include "accelerate/data/datasets/subset.h"
#include "accelerate/optim/clip.h"
#include "accelerate/optim/gradient_state.h"
#include "accelerate/optim/gradient_statistics.h"
#include "accelerate/optim/sync_schedule.h"
#include "accelerate/options.h"
#include "accelerate/precision/autocast.h"
#include "accelerate/prepare.h"
#include "accelerate/profile/profiler.h"
#include "accelerate/runtime_join.h"
#include "accelerate/step/step.h"
#include "accelerate/tensor/seed.h"
#include "accelerate/tracking/tqdm.h"

namespace at {
struct Generator;
}

namespace accelerate {

class LocalSGD;
namespace internal {
class Runtime;
}

struct MetricsOptions {
  bool use_gather_object = false;  ///< a list with tensors is gathered as a list of objects, whatever their shapes
};

/// The loop of one training run: device, precision, accumulation and, with several processes, their cooperation.
/// Move-only. Training verbs throw UsageError after `end_training()`; models still run. No global state: several
/// Accelerators in one process do not know of each other. Not thread-safe: one thread trains.
/// Source: `accelerate.Accelerator`.
class Accelerator {
 public:
  /// In one process opens no socket, thread or file; several meet here, and all of them have to come. On the CPU it has
  /// the C library keep the memory that a step frees for the next one (core/heap.h), which holds for the whole process.
  /// Throws ConfigError for options or environment variables that cannot be met, CommError for ranks that do not come.
  explicit Accelerator(AcceleratorOptions options = {});
  /// Ends training if that has not happened.
  ~Accelerator();
  Accelerator(Accelerator&&) noexcept;
  Accelerator& operator=(Accelerator&&) noexcept;

  /// Prepared handles of modules, optimizers, loaders, schedulers and schedules, in the order given: one bare handle
  /// for one argument, a tuple for several. All or nothing. An object given twice, also in another call, is the same
  /// prepared object. Optimizers given by reference are borrowed and must outlive their handles.
  template <class... Objects>
  requires(!internal::begins_with_options<Objects...>) auto prepare(Objects&&... objects) {
    return prepare_objects(PrepareOptions{}, std::forward<Objects>(objects)...);
  }
  /// `prepare({.device_placement = {true, false}}, model, loader)`. Throws UsageError unless
  /// there are as many entries as objects.
  template <class... Objects>
  auto prepare(const PrepareOptions& options, Objects&&... objects) {
    return prepare_objects(options, std::forward<Objects>(objects)...);
  }
  /// One object with options of its own. Throws UsageError like `prepare`, and for a model that is to be trained after
  /// it was prepared for evaluation.
  template <class Object>
  auto prepare_model(Object&& model, PrepareModelOptions options = {}) {
    static_assert(internal::PreparableModel<std::remove_cvref_t<Object>>,
                  "accelerate: prepare_model() takes a holder, a std::shared_ptr or a torch::jit::Module.");
    return prepare_one<internal::ModelItem>(std::forward<Object>(model), options);
  }
  template <class Object>
  auto prepare_optimizer(Object&& optimizer, PrepareOptimizerOptions options = {}) {
    static_assert(internal::PreparableOptimizer<std::remove_cvref_t<Object>>,
                  "accelerate: prepare_optimizer() takes a torch::optim optimizer.");
    return prepare_one<internal::OptimizerItem>(std::forward<Object>(optimizer), options);
  }
  template <class Object>
  auto prepare_data_loader(Object&& loader, PrepareDataLoaderOptions options = {}) {
    static_assert(internal::is_loader<std::remove_cvref_t<Object>>,
                  "accelerate: prepare_data_loader() takes an accelerate::DataLoader.");
    return prepare_one<internal::LoaderItem>(std::forward<Object>(loader), options);
  }

  /// Lets go of everything that was prepared, empties the handles and pointers given, and starts counting micro-steps
  /// anew: for a second training in one program. Training verbs of older handles throw UsageError, their models run
  /// plain, their loaders still iterate. Source: `Accelerator.free_memory`.
  template <class... Handles>
  void free_memory(Handles&... handles) {
    release();
    (internal::let_go(handles), ...);
    empty_cache();
  }
  /// The same. Source: `Accelerator.clear`.
  template <class... Handles>
  void clear(Handles&... handles) {
    free_memory(handles...);
  }

  /// `prepare` of one scheduler or schedule. One that does not say whose rates it sets, as a bare schedule, needs the
  /// prepared optimizer, too. Throws UsageError when the scheduler's optimizer is not prepared.
  template <class S>
  Scheduler prepare_scheduler(S&& scheduler) {
    static_assert(internal::AnyScheduler<std::remove_cvref_t<S>>,
                  "accelerate: prepare_scheduler() takes a scheduler or a schedule.");
    return prepare(std::forward<S>(scheduler));
  }
  template <class S>
  Scheduler prepare_scheduler(S&& scheduler, const Optimizer& optimizer) {
    static_assert(internal::AnyScheduler<std::remove_cvref_t<S>>,
                  "accelerate: prepare_scheduler() takes a scheduler or a schedule.");
    return std::get<1>(prepare(optimizer, std::forward<S>(scheduler)));
  }

  /// Starts a micro-step; keep the guard until the end of the loop body. Throws UsageError for models of others.
  template <class... Models>
  Accumulation accumulate(const Model<Models>&... models) {
    return accumulate_all({models.core().get()...});
  }

  /// Until the guard ends, backward passes of forwards that run now leave this model's gradients on their process; the
  /// first one outside averages what has come together. Source: `Accelerator.no_sync`.
  template <class M>
  GradientSyncScope no_sync(const Model<M>& model) {
    return override_sync(model.core(), GradientSync::kAccumulate);
  }
  /// Until the guard ends, `backward` averages this model's gradients although their forward ran under `no_sync` or the
  /// window goes on. Source: `Accelerator.trigger_sync_in_backward`.
  template <class M>
  GradientSyncScope trigger_sync_in_backward(const Model<M>& model) {
    return override_sync(model.core(), GradientSync::kReduce);
  }

  /// Until the guard ends the processes may get unequal numbers of batches. One that has come to the end of its data
  /// goes on taking part in the exchanges of `joinables` with nothing to add, until all have: gradients are still
  /// divided by the number of all processes. In the end the models are those of the process that was last, of several
  /// the one with the largest rank; optimizers and schedulers stay as they are. Nothing happens in one process, and
  /// where loaders have even batches. Other collectives inside are not covered; give each pass over a loader a guard of
  /// its own. Reached by every process. Throws UsageError for no model, one of another Accelerator, and options that
  /// differ. Source: `Accelerator.join_uneven_inputs`.
  UnevenJoin join_uneven_inputs(const std::vector<Joinable>& joinables, JoinOptions options = {});

  /// Runs autograd from `loss` (one element) divided by the number of accumulation steps, or counted as `num_items` or
  /// `weight` say. Throws UsageError for a loss without a graph, and for losses with and without counts in one window.
  void backward(const at::Tensor& loss, BackwardOptions options = {});

  /// The loop body as an object, `auto step = accelerator.step([&](auto& batch) { ...; return loss; });`: each call is
  /// one step, whatever the body does with any number of models and optimizers. See `Step`, and `CudaGraph` for what
  /// capturing it asks for. After training has ended the body just runs.
  template <class Body>
  Step<std::decay_t<Body>> step(Body&& body) {
    return {std::forward<Body>(body), step_boundary()};
  }
  /// What has become of the steps with `.cuda_graph`; all zero without.
  CudaGraphReport cuda_graph_report() const;

  template <class M>
  ClipResult clip_grad_norm_(const Model<M>& model, ClipNormOptions options) {
    return clip_grad_norm_(ModelList{model}, options);
  }
  /// The peer's short form: `clip_grad_norm_(model, 1.0)`.
  template <class M>
  ClipResult clip_grad_norm_(const Model<M>& model, double max_norm) {
    return clip_grad_norm_(model, ClipNormOptions{.max_norm = max_norm});
  }
  /// Several models under one norm: `clip_grad_norm_({encoder, head}, {.max_norm = 1.0})`.
  ClipResult clip_grad_norm_(const ModelList& models, ClipNormOptions options);
  ClipResult clip_grad_norm_(const ModelList& models, double max_norm) {
    return clip_grad_norm_(models, ClipNormOptions{.max_norm = max_norm});
  }
  ClipResult clip_grad_norm_(const std::vector<at::Tensor>& parameters, double max_norm) {
    return clip_grad_norm_(parameters, ClipNormOptions{.max_norm = max_norm});
  }
  /// Scales the parameters' gradients so that their joint norm is at most `max_norm`. On a micro-step that does not end
  /// a window it does nothing and says so in its result. Throws UsageError for options out of range, and with
  /// `error_if_nonfinite` for a norm that is not finite: averaged gradients are so on every process.
  ClipResult clip_grad_norm_(const std::vector<at::Tensor>& parameters, ClipNormOptions options);
  template <class M>
  ClipResult clip_grad_value_(const Model<M>& model, ClipValueOptions options) {
    return clip_grad_value_(ModelList{model}, options);
  }
  ClipResult clip_grad_value_(const std::vector<at::Tensor>& parameters, ClipValueOptions options);
  ClipResult clip_grad_value_(const ModelList& models, ClipValueOptions options);
  /// Divides the gradients of every prepared optimizer, or of those given, by the loss scale of fp16, to look at them;
  /// clipping and steps do it themselves. Nothing the second time, and in other precisions. Throws UsageError for
  /// float16 gradients. Source: `Accelerator.unscale_gradients`, which raises the second time.
  void unscale_gradients();
  template <class... Optimizers>
  requires(std::is_same_v<Optimizers, Optimizer>&&...) void unscale_gradients(const Optimizer& first,
                                                                              const Optimizers&... more) {
    (internal::held(first.core(), "optimizer")->unscale_gradients(), ...,
     internal::held(more.core(), "optimizer")->unscale_gradients());
  }
  /// Whether some prepared optimizer left its last step out because a gradient was not finite.
  bool optimizer_step_was_skipped() const;

  /// Norm, largest element, mean and counts of the gradients of each parameter group of `optimizer`, as they are now:
  /// after `backward`, before `step` or `zero_grad`. Also on a micro-step that accumulates, which it says. Waits for
  /// the device once. Throws UsageError for an optimizer of another Accelerator.
  GradientStatistics gradient_statistics(const Optimizer& optimizer) const;

  /// The model's precision for code outside a model call, until the guard ends. Nothing for `mixed_precision` "no".
  /// Without options as `.autocast_handler` says.
  AutocastScope autocast(AutocastOptions options) const;
  AutocastScope autocast() const;

  /// Records what this process computes until the guard ends, and writes `output_trace_dir/profile_<index>.json`.
  /// Without options as `.profile_handler` says. What can go wrong: profile/profiler.h.
  Profiler profile(ProfileKwargs options) const;
  Profiler profile() const;

  // Collectives: reached by every process, in the same order. A value is a tensor, or a tuple, vector, map or struct of
  // tensors, nested; all its tensors travel together. With `ACCELERATE_DEBUG_MODE=1` the processes compare shapes
  // first; over Gloo, which would end the program, always.

  /// Every tensor of `value` from all processes, concatenated along dimension 0; 0-d ones give a vector. In one process
  /// the value itself. Shapes are the same everywhere; else see `pad_across_processes`.
  template <class T>
  T gather(T value) const {
    has_tensors<T>();
    gather_tensors(tensors_of(value));
    return value;
  }
  /// Like `gather`, without the samples that fill up the last batch of the loader being iterated.
  template <class T>
  T gather_for_metrics(T value) const {
    has_tensors<T>();
    gather_tensors_for_metrics(tensors_of(value));
    return value;
  }
  /// Objects that belong to samples, one each: those of all processes, without those that fill up the last batch.
  template <internal::WithoutTensors T = std::string>
  std::vector<T> gather_for_metrics(const std::vector<T>& objects) const {
    return gather_for_metrics(objects, MetricsOptions{.use_gather_object = true});
  }
  template <class T>
  std::vector<T> gather_for_metrics(const std::vector<T>& objects, MetricsOptions options) const {
    if (!options.use_gather_object) return gather_for_metrics(std::vector<T>(objects));
    std::vector<T> all = gather_object(objects);
    const std::optional<int64_t> kept = metrics_kept();
    if (kept && all.size() > static_cast<size_t>(*kept)) all.erase(all.begin() + *kept, all.end());
    return all;
  }
  /// The lists of all processes in one, in their order; lengths may differ. Of anything that can be turned into bytes
  /// (`Serialize`, tensor/bytes.h). Throws CommError where processes pass other types.
  template <class T = std::string>
  std::vector<T> gather_object(const std::vector<T>& objects) const {
    if (!use_distributed()) return objects;
    std::vector<T> all;
    const std::string own = internal::pack_objects(objects);
    const internal::GatheredBytes gathered = gather_bytes("gather_object", own);
    for (const std::string_view bytes : gathered.ranks) internal::unpack_objects("gather_object", bytes, all);
    return all;
  }
  /// Every tensor of `value` combined over all processes; the input is not changed.
  template <class T>
  T reduce(T value, ReduceOptions options = {}) const {
    has_tensors<T>();
    reduce_tensors(tensors_of(value), options);
    return value;
  }
  /// Gives the tensors of `value`, in place, what they hold on process `from_process`, and returns it.
  template <class T>
  T broadcast(T value, int64_t from_process = 0) const {
    has_tensors<T>();
    broadcast_tensors(tensors_of(value), from_process);
    return value;
  }
  /// The objects of process `from_process`, on every process.
  template <class T = std::string>
  std::vector<T> broadcast_object_list(const std::vector<T>& objects, int64_t from_process = 0) const {
    const bool sends = process_index() == from_process;
    const std::string bytes = broadcast_bytes(sends ? internal::pack_objects(objects) : "", from_process);
    if (sends) return objects;
    std::vector<T> received;
    internal::unpack_objects("broadcast_object_list", bytes, received);
    return received;
  }
  /// The tensor of the one process that passes a defined one, on `device()`, on every process; any shape and dtype.
  /// Throws UsageError when none or several pass one. Source: `accelerate.utils.copy_tensor_to_devices`.
  at::Tensor copy_tensor_to_devices(const at::Tensor& tensor = {}) const;
  /// Tensors that are shorter than on another process come back as copies padded to the same length.
  template <class T>
  T pad_across_processes(T value, PadOptions options = {}) const {
    has_tensors<T>();
    pad_tensors(tensors_of(value), options);
    return value;
  }

  /// The values, separated by spaces, on one line of standard output; once a host.
  template <class... Values>
  void print(const Values&... values) const {
    if (!is_local_main_process()) return;
    std::ostringstream line;
    [[maybe_unused]] const char* separator = "";
    [[maybe_unused]] const auto add = [&](const auto& value) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, at::Tensor>) {
        line << separator << text_of(value);
      } else {
        line << separator << value;
      }
      separator = " ";
    };
    (add(values), ...);
    print_line(line.str());
  }
  void wait_for_everyone() const;
  /// Messages of the program itself; see Logger. Source: `accelerate.logging.get_logger`.
  Logger get_logger(const std::string& name, LoggerOptions options = {}) const;

  /// What this Accelerator has become, printable in the original's form.
  const AcceleratorState& state() const;
  DistributedType distributed_type() const { return state().distributed_type; }
  int64_t num_processes() const { return state().num_processes(); }
  int64_t process_index() const { return state().process_index(); }
  int64_t local_process_index() const { return state().local_process_index(); }
  bool is_main_process() const { return state().is_main_process(); }
  bool is_local_main_process() const { return state().is_local_main_process(); }
  bool is_last_process() const { return state().is_last_process(); }
  bool use_distributed() const { return state().use_distributed(); }
  /// Several processes on GPUs.
  bool multi_device() const { return distributed_type() == DistributedType::kMultiGpu; }
  bool should_save_model() const { return is_local_main_process(); }
  c10::Device device() const { return state().device; }
  const std::string& mixed_precision() const { return state().mixed_precision; }
  /// Whether model calls compute under autocast.
  bool native_amp() const;
  /// How losses are scaled; null unless the precision is fp16. Source: `Accelerator.scaler`.
  const std::shared_ptr<GradScaler>& scaler() const;
  /// Where accumulation and the running loop over a loader stand.
  GradientState gradient_state() const;
  int64_t gradient_accumulation_steps() const;
  /// From the next micro-step on, the same on every process. The count of micro-steps goes on: between two updates this
  /// changes which one is the next, and the gradients gathered so far stay divided by the old number; `free_memory`
  /// starts the count anew. Throws UsageError for less than 1, and while a window is open.
  /// Source: the setter of `Accelerator.gradient_accumulation_steps`.
  void set_gradient_accumulation_steps(int64_t steps);
  /// Whether the current micro-step ends its window; stays as the last window set it.
  bool sync_gradients() const;
  bool device_placement() const;
  bool step_scheduler_with_optimizer() const;
  const DataLoaderConfiguration& dataloader_config() const;
  bool split_batches() const { return dataloader_config().split_batches; }
  bool even_batches() const { return dataloader_config().even_batches; }
  bool use_seedable_sampler() const { return dataloader_config().use_seedable_sampler; }
  bool non_blocking() const { return dataloader_config().non_blocking; }
  const std::vector<std::string>& rng_types() const;
  const ProjectConfiguration& project_configuration() const;
  const std::optional<std::string>& project_dir() const { return project_configuration().project_dir; }
  const std::optional<std::string>& logging_dir() const { return project_configuration().logging_dir; }
  /// The number of the next checkpoint.
  int64_t save_iteration() const { return project_configuration().iteration; }
  /// Every effective setting and where it came from.
  const Fields& plan() const;

  /// Seeds LibTorch's default generators on all devices, with `device_specific` by `seed` plus the process index.
  void set_seed(uint64_t seed, SeedOptions options = {}) const;
  /// Gives every process the random states of process 0, byte for byte: "torch", "cuda", and "generator", which is the
  /// one passed. Reached by every process. Source: `accelerate.utils.synchronize_rng_states`.
  void synchronize_rng_states(const std::vector<std::string>& rng_types) const;
  void synchronize_rng_states(const std::vector<std::string>& rng_types, at::Generator& generator) const;

  /// A callable of the same signature that does nothing on other processes and returns a value-initialised result
  /// there; a reference comes back as a value.
  template <class F>
  auto on_main_process(F function) const {
    return internal::selected(internal::runs_on_process("on_main_process", 0, state().world), std::move(function));
  }
  template <class F>
  auto on_local_main_process(F function) const {
    return internal::selected(internal::runs_on_local_process("on_local_main_process", 0, state().world),
                              std::move(function));
  }
  template <class F>
  auto on_last_process(F function) const {
    return internal::selected(internal::runs_on_process("on_last_process", num_processes() - 1, state().world),
                              std::move(function));
  }
  /// Runs on process `process_index` alone; in one process always. Throws UsageError for an index that no process has.
  template <class F>
  auto on_process(int64_t process_index, F function) const {
    return internal::selected(internal::runs_on_process("on_process", process_index, state().world),
                              std::move(function));
  }
  /// Runs on that process of every host.
  template <class F>
  auto on_local_process(int64_t local_process_index, F function) const {
    return internal::selected(internal::runs_on_local_process("on_local_process", local_process_index, state().world),
                              std::move(function));
  }

  /// The rest of the block runs on the main process first and, when that has left it, on the others:
  /// `auto order = accelerator.main_process_first();`. Reached by every process; the others' call throws CommError when
  /// the main process leaves the block with an exception.
  ProcessOrder main_process_first() const;
  /// The same with the main process of every host.
  ProcessOrder local_main_process_first() const;

  /// This process's share of tensors (rows) and lists, or of a tuple, map or struct of these, whose lengths are the
  /// same: consecutive, in the order of processes, sizes differ by at most one. In one process all of it. Nothing is
  /// exchanged, and the input stays what it is. Source: `PartialState.split_between_processes`.
  /// Of a data set, a data set with its share of the examples.
  template <class T>
  auto split_between_processes(const T& inputs, SplitOptions options = {}) const {
    if constexpr (Dataset<T>) {
      T dataset = inputs;
      const auto size = static_cast<int64_t>(dataset.size());
      return Subset<T>(std::move(dataset), internal::split_rows(size, state().world, options));
    } else {
      return internal::split(inputs, state().world, options);
    }
  }

  /// A flag that `check_trigger` finds on every process. Nothing is exchanged.
  void set_trigger();
  /// True on all processes when any of them has called `set_trigger` since the last time; reached by every process.
  bool check_trigger();

  /// A range whose passes are shown on `out`, by the main process of a host alone:
  /// `for (auto& [x, y] : accelerator.tqdm(loader, std::cerr))`. Source: `accelerate.utils.tqdm`.
  template <class Range>
  Tqdm<Range> tqdm(Range&& range, std::ostream& out, TqdmOptions options = {}) const {
    return Tqdm<Range>(std::forward<Range>(range), out, shown_here(std::move(options)));
  }
  /// A bar that you move: `bar.update()`.
  ProgressBar tqdm(std::ostream& out, TqdmOptions options = {}) const { return ProgressBar(out, shown_here(options)); }

  /// The user's own module.
  template <class M>
  std::shared_ptr<M> unwrap_model(const Model<M>& model) const {
    return model.ptr();
  }

  /// Writes `<directory>/model.safetensors`, whole or not at all; folders are created. Keys are the module's own.
  template <class M>
  void save_model(const Model<M>& model, const std::string& directory) const {
    save_model_core(*model.core(), directory);
  }
  /// Reads a file, or `model.safetensors` in a folder. Everything is checked before anything is changed.
  template <class M>
  LoadModelResult load_model(const Model<M>& model, const std::string& path, LoadModelOptions options = {}) const {
    return load_model_core(*model.core(), path, options);
  }

  /// Training verbs of this Accelerator and its handles throw from now on.
  void end_training();

 private:
  friend class LocalSGD;
  template <class... Users, size_t... I>
  static auto handles(const std::array<internal::PrepareItem, sizeof...(Users)>& items, std::index_sequence<I...>) {
    if constexpr (sizeof...(Users) == 1) {
      return internal::from_item<Users...>(items[0]);
    } else {
      return std::tuple(internal::from_item<Users>(items[I])...);
    }
  }
  template <class T>
  static constexpr void has_tensors() {
    static_assert(
        !internal::Flattenable<T> || internal::contents<T>() == internal::Contents::kTensors,
        "accelerate: a value without tensors stays what it is on each process; put the number into a tensor first, "
        "for example torch::tensor(3.0).");
  }
  void prepare_all(std::span<internal::PrepareItem> items, const PrepareOptions& options);
  template <class... Objects>
  auto prepare_objects(const PrepareOptions& options, Objects&&... objects) {
    static_assert(sizeof...(Objects) > 0, "accelerate: prepare() takes at least one object.");
    std::array<internal::PrepareItem, sizeof...(Objects)> items{internal::to_item(std::forward<Objects>(objects))...};
    prepare_all(items, options);
    return handles<std::remove_cvref_t<Objects>...>(items, std::index_sequence_for<Objects...>{});
  }
  template <class Item, class Object, class Options>
  auto prepare_one(Object&& object, const Options& options) {
    std::array<internal::PrepareItem, 1> items{internal::to_item(std::forward<Object>(object))};
    std::get<Item>(items[0]).options = options;
    prepare_all(items, {});
    return internal::from_item<std::remove_cvref_t<Object>>(items[0]);
  }
  void release();
  void empty_cache() const;
  TqdmOptions shown_here(TqdmOptions options) const {
    options.disable |= options.main_process_only && !is_local_main_process();
    return options;
  }
  Accumulation accumulate_all(std::initializer_list<internal::ModelCore*> models);
  GradientSyncScope override_sync(const std::shared_ptr<internal::ModelCore>& model, GradientSync sync);
  template <class T>
  static std::vector<at::Tensor*> tensors_of(T& value) {
    return internal::tensors_of(value);
  }
  void gather_tensors(internal::TensorList tensors) const;
  void gather_tensors_for_metrics(internal::TensorList tensors) const;
  void reduce_tensors(internal::TensorList tensors, const ReduceOptions& options) const;
  void broadcast_tensors(internal::TensorList tensors, int64_t from_process) const;
  void pad_tensors(internal::TensorList tensors, const PadOptions& options) const;
  void verify(const char* operation, internal::TensorList tensors, const std::string& arguments = {}) const;
  /// In debug mode: every process is in this verb with these arguments.
  internal::StepBoundary step_boundary();
  void require_same_call(const char* operation, const std::string& arguments) const;
  internal::GatheredBytes gather_bytes(const char* operation, const std::string& own) const;
  std::string broadcast_bytes(std::string own, int64_t from_process) const;
  /// How many samples of the last batch count; nothing when all do.
  std::optional<int64_t> metrics_kept() const;
  void save_model_core(internal::ModelCore& model, const std::string& directory) const;
  LoadModelResult load_model_core(internal::ModelCore& model, const std::string& path, LoadModelOptions options) const;
  static std::string text_of(const at::Tensor& tensor);
  static void print_line(const std::string& line);
  internal::Runtime& runtime() const;

  std::unique_ptr<internal::Runtime> runtime_;
};

}  // namespace accelerate
