#include "accelerate/runtime.h"

#include <torch/csrc/autograd/autograd.h>

#include <exception>
#include <sstream>
#include <utility>

#include "accelerate/comm/connect.h"
#include "accelerate/comm/group_core.h"
#include "accelerate/core/error.h"
#include "accelerate/core/heap.h"
#include "accelerate/plan_agreement.h"

namespace accelerate::internal {
namespace {

void check_loss(const at::Tensor& loss) {
  if (loss.defined() && loss.requires_grad() && loss.numel() == 1) return;
  std::ostringstream got;
  if (!loss.defined()) {
    got << "an undefined tensor";
  } else if (loss.numel() != 1) {
    got << "a tensor of shape " << loss.sizes();
  } else {
    got << "a tensor without a graph";
  }
  throw UsageError({.place = "backward",
                    .what = "The loss cannot be differentiated",
                    .got = got.str(),
                    .expected = "one number computed from a model's parameters",
                    .remedy = "Reduce the loss with mean() or sum(), and compute it outside a no-grad guard from "
                              "parameters that require gradients"});
}

/// One backward pass through several strategies: each that was told of it is told how it ended.
class Pass {
 public:
  using Models = std::vector<std::shared_ptr<ModelCore>>;
  explicit Pass(const Models& models) : models_(models) {}
  ~Pass() {
    for (size_t i = 0; i < begun_; ++i) models_[i]->strategy().backward_failed();
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  void begin(const at::Tensor& loss) {
    for (const auto& model : models_) {
      model->strategy().before_backward(loss, model->backward_sync(loss));
      ++begun_;
    }
  }
  /// All of them come to an end, also when one throws: the others' ranks are waiting.
  void finish() {
    std::exception_ptr first;
    const size_t begun = std::exchange(begun_, 0);
    for (size_t i = 0; i < begun; ++i) {
      try {
        models_[i]->strategy().after_backward();
      } catch (...) {
        if (!first) first = std::current_exception();
      }
    }
    if (first) std::rethrow_exception(first);
  }

 private:
  const Models& models_;
  size_t begun_ = 0;
};

}  // namespace

Runtime::Runtime(Plan plan, LogSink sink)
    : plan_(std::move(plan)),
      log_(std::move(sink), plan_.world.rank),
      group_(connect({.world = plan_.world,
                      .rendezvous = plan_.rendezvous,
                      .store = plan_.store,
                      .process_group = plan_.process_group,
                      .device = plan_.device,
                      .backend = plan_.init_process_group.backend,
                      .timeout = plan_.init_process_group.timeout,
                      .rendezvous_timeout = plan_.init_process_group.rendezvous_timeout,
                      .liveness = LivenessRules::of(plan_.init_process_group.heartbeat_timeout,
                                                    plan_.init_process_group.slow_warning)},
                     log_)),
      active_loaders_(std::make_shared<ActiveLoaders>()),
      sync_(std::make_shared<SyncSchedule>(
          SyncSchedule::Rule{.num_steps = plan_.accumulation.num_steps,
                             .sync_with_dataloader = plan_.accumulation.sync_with_dataloader},
          active_loaders_)) {
  keep_freed_memory();
  make_current(plan_.device);
  require_same_plan(group_, plan_.fields);
}

void Runtime::close() noexcept {
  sync_->close();
  for (const auto& model : prepared_.models) model->end();
  prepared_ = {};
  if (group_.core() == nullptr) return;
  group_.core()->leave(std::uncaught_exceptions() > 0 ? "an exception ended its training" : "it ended training");
}

void Runtime::prepare(std::span<PrepareItem> items) {
  sync_->require_open("prepare");
  check_items(items, prepared_, *sync_);
  prepared_ =
      build_items(items, prepared_,
                  {.plan = plan_, .group = group_, .log = log_, .sync = sync_, .active_loaders = active_loaders_});
}

void Runtime::backward(const at::Tensor& loss, const BackwardOptions& options) {
  sync_->require_open("backward");
  sync_->require_window("backward");
  check_loss(loss);
  const int64_t num_steps = sync_->num_steps();
  const at::Tensor scaled = num_steps == 1 ? loss : loss / num_steps;
  Pass pass(prepared_.models);
  pass.begin(scaled);
  torch::autograd::backward({scaled}, /*grad_tensors=*/{},
                            /*retain_graph=*/options.retain_graph || options.create_graph, options.create_graph);
  pass.finish();
}

}  // namespace accelerate::internal
