// Every rank holds the whole model and sees its own samples; gradients are averaged while backward runs.
#include "accelerate/strategy/ddp.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/embedding.h>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include <algorithm>
#include <any>
#include <set>
#include <sstream>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/strategy/choice.h"
#include "accelerate/strategy/ddp/comm_hook.h"
#include "accelerate/strategy/ddp/errors.h"
#include "accelerate/strategy/ddp/gradient_reducer.h"
#include "accelerate/strategy/ddp/same_model.h"
#include "accelerate/strategy/replicated.h"
#include "accelerate/strategy/strategy.h"
#include "accelerate/strategy/uneven.h"
#include "accelerate/tensor/graph.h"
#include "accelerate/tensor/memory_bytes.h"

namespace accelerate::internal {
namespace {

constexpr size_t kBroadcastBytes = 250 << 20;  // Source: `DistributedDataParallel.broadcast_bucket_size`

std::string words(const Ddp& options) {
  std::ostringstream out;
  out << std::boolalpha << "Ddp{.bucket_cap_mb = " << options.bucket_cap_mb
      << ", .find_unused_parameters = " << options.find_unused_parameters
      << ", .static_graph = " << options.static_graph << ", .broadcast_buffers = " << options.broadcast_buffers
      << ", .gradient_as_bucket_view = " << options.gradient_as_bucket_view << ", .comm_hook = \"" << options.comm_hook
      << "\", .comm_wrapper = \"" << options.comm_wrapper << "\"";
  if (const auto* state = std::get_if<PowerSgd>(&options.comm_state_option)) {
    out << ", .comm_state_option = PowerSgd{.matrix_approximation_rank = " << state->matrix_approximation_rank
        << ", .start_powerSGD_iter = " << state->start_powerSGD_iter
        << ", .min_compression_rate = " << state->min_compression_rate
        << ", .use_error_feedback = " << state->use_error_feedback << ", .warm_start = " << state->warm_start
        << ", .orthogonalization_epsilon = " << state->orthogonalization_epsilon
        << ", .random_seed = " << state->random_seed
        << ", .batch_tensors_with_same_shape = " << state->batch_tensors_with_same_shape << "}";
  }
  out << "}";
  return out.str();
}

/// The parameters whose gradients an embedding makes sparse.
std::set<const void*> sparse_parameters(const torch::nn::Module& module) {
  std::set<const void*> sparse;
  const auto add = [&](const torch::nn::Module* part) {
    if (const auto* embedding = dynamic_cast<const torch::nn::EmbeddingImpl*>(part)) {
      if (embedding->options.sparse()) sparse.insert(embedding->weight.unsafeGetTensorImpl());
    } else if (const auto* bag = dynamic_cast<const torch::nn::EmbeddingBagImpl*>(part)) {
      if (bag->options.sparse()) sparse.insert(bag->weight.unsafeGetTensorImpl());
    }
  };
  add(&module);
  for (const auto& part : module.modules(/*include_self=*/false)) add(part.get());
  return sparse;
}

using Ends = std::vector<uint8_t>;  ///< a ParameterEnd for each parameter

class DdpStrategy final : public Strategy, private Shadow {
 public:
  /// Throws ConfigError for a communication hook that cannot be.
  explicit DdpStrategy(Ddp options) : options_(std::move(options)), hook_(make_hook(options_)) {}

  ParameterTable attach(const AttachContext& context) override {
    module_ = &context.module;
    has_buffers_ = !module_->buffers().empty();
    group_ = context.group;
    log_ = context.log;
    const ParameterTable table = whole_table(*module_);
    learn_parameters(table);
    // As in the original: nothing to average, nothing to share.
    if (group_.core() == nullptr || !anything_trains()) return table;
    ranks_ = c10::make_intrusive<ReducerGroup>(group_.core());
    require_same_model(group_, describe(table));
    broadcast_from(kMain, state());
    build_reducer();
    return table;
  }

  void before_forward(GradientSync sync) override {
    if (!ranks_) return;
    if (has_buffers_ && options_.broadcast_buffers && buffers_are_due_) {
      take({.kind = Turn::Kind::kBuffers});
      broadcast_from(turns_ == nullptr ? kMain : turns_->source(), module_->buffers());
    }
    // Source: `require_forward_param_sync`; the same on every rank, whatever its forward does.
    buffers_are_due_ = at::GradMode::is_enabled() && sync == GradientSync::kReduce;
  }

  void before_backward(const at::Tensor& loss, GradientSync sync) override {
    armed_ = false;
    accumulates_ = sync == GradientSync::kAccumulate;
    if (!ranks_) return require_still_frozen();
    if (!reducer_) build_reducer();
    if (!reducer_) return;
    if (accumulates_) {
      stray_ = reducer_->touched();
      return;
    }
    if (freezing_changed()) {
      if (!anything_trains()) return;
      if (turns_ != nullptr) throw frozen_while_joined(module_->name());
      follow_freezing();
    }
    reducer_->arm(loss);
    loss_ = loss;
    armed_ = true;
  }

  void after_backward() override {
    if (!reducer_) return;
    if (accumulates_) {
      // What the Accelerator accumulates it will also average, or the user has asked it not to.
      reducer_->set_touched(stray_);
      accumulated_ = true;
      return;
    }
    if (!armed_) return;
    armed_ = false;
    loss_.reset();
    try {
      finish();
    } catch (...) {
      // On every rank: a reducer that is new on some of them would exchange its buckets' order alone.
      reducer_.reset();
      throw;
    }
  }

  void backward_failed() noexcept override {
    if (!reducer_) return;
    if (accumulates_) reducer_->set_touched(stray_);
    if (!armed_) return;
    armed_ = false;
    const at::Tensor loss = std::exchange(loss_, at::Tensor());
    bool ended = false;
    try {
      ended = end_early(loss);
    } catch (...) {
      ended = false;  // the exception that is on its way says more than a group that is broken
    }
    if (!ended) reducer_.reset();
  }

  void backward_repeated(GradientSync sync) override {
    if (!reducer_) return;
    accumulates_ = accumulated_ = sync == GradientSync::kAccumulate;
  }

  bool exchanges_before_forward() const override {
    return ranks_ && has_buffers_ && options_.broadcast_buffers && buffers_are_due_;
  }

  void before_update() override {
    if (!reducer_ || !(reducer_->touched() || accumulated_)) return;
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates_) {
      if (candidate.parameter.tensor.grad().defined()) names.push_back(candidate.parameter.name);
    }
    if (names.empty()) return;
    throw reducer_->touched() ? gradients_not_averaged(module_->name(), names)
                              : gradients_left_local(module_->name(), names);
  }

  bool comes_last(const at::Tensor& parameter) const override { return reducer_ && reducer_->comes_last(parameter); }

  Shadow* shadow() override { return this; }

  ExtraMemory extra_memory() const override {
    if (!reducer_) return {};
    int64_t buckets = 0;
    MemoryCount gradients(reducer_->parameters().front().tensor.device());
    for (const ReducedParameter& parameter : reducer_->parameters()) {
      if (parameter.sparse_gradient) continue;
      buckets += static_cast<int64_t>(parameter.tensor.nbytes());
      if (options_.gradient_as_bucket_view) gradients.add(parameter.tensor.grad());
    }
    buckets = std::max<int64_t>(buckets - gradients.bytes(), 0);
    if (options_.gradient_as_bucket_view) return {.bytes = buckets};
    return {.bytes = buckets,
            .remedy = {buckets, "set Ddp::gradient_as_bucket_view, which keeps the gradients in the buckets (" +
                                    bytes_text(buckets) + ")"}};
  }

  void end() noexcept override {
    reducer_.reset();
    ranks_.reset();
    group_ = {};
  }

  void save(StateWriter& writer) const override { save_whole(*module_, writer); }
  void load(StateReader& reader) override { load_whole(*module_, reader); }

 private:
  struct Candidate {
    ReducedParameter parameter;
    bool reduced = false;  ///< the reducer has it
  };

  void learn_parameters(const ParameterTable& table) {
    const auto sparse = sparse_parameters(*module_);
    std::set<const void*> seen;
    const size_t parameters = module_->named_parameters().size();
    for (size_t i = 0; i < parameters; ++i) {
      const ParameterRow& row = table[i];
      const void* identity = row.tensor.unsafeGetTensorImpl();
      if (seen.insert(identity).second) candidates_.push_back({{row.name, row.tensor, sparse.contains(identity)}});
    }
  }

  ModelDescription describe(const ParameterTable& table) const {
    return {module_->name(), words(options_), table, table.front().tensor.device()};
  }

  bool anything_trains() const {
    return std::any_of(candidates_.begin(), candidates_.end(),
                       [](const Candidate& candidate) { return candidate.parameter.tensor.requires_grad(); });
  }

  bool freezing_changed() const {
    return std::any_of(candidates_.begin(), candidates_.end(), [](const Candidate& candidate) {
      return candidate.parameter.tensor.requires_grad() != candidate.reduced;
    });
  }

  /// Other parameters train than those the reducer was built for.
  void follow_freezing() {
    std::vector<std::string> left_behind;
    for (const Candidate& candidate : candidates_) {
      const at::Tensor& tensor = candidate.parameter.tensor;
      const bool frozen = candidate.reduced && !tensor.requires_grad();
      if (frozen && accumulated_ && tensor.grad().defined()) left_behind.push_back(candidate.parameter.name);
    }
    if (!left_behind.empty()) throw frozen_with_gradient(module_->name(), left_behind);
    require_same_model(group_, describe(whole_table(*module_)));
    build_reducer();
  }

  void require_still_frozen() const {
    if (group_.core() == nullptr || !anything_trains()) return;
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates_) {
      if (candidate.parameter.tensor.requires_grad()) names.push_back(candidate.parameter.name);
    }
    throw unfrozen_too_late(module_->name(), names);
  }

  void build_reducer() {
    std::vector<ReducedParameter> parameters;
    for (Candidate& candidate : candidates_) {
      candidate.reduced = candidate.parameter.tensor.requires_grad();
      if (candidate.reduced) parameters.push_back(candidate.parameter);
    }
    reducer_.reset();
    if (parameters.empty()) return;
    reducer_ = std::make_unique<GradientReducer>(std::move(parameters), options_, ranks_,
                                                 GradientReducer::Travel{hook_.get(), log_});
    tell_reducer();
  }

  /// Every parameter, and the buffers if the ranks share those.
  std::vector<at::Tensor> state() const {
    std::vector<at::Tensor> tensors;
    for (const Candidate& candidate : candidates_) tensors.push_back(candidate.parameter.tensor);
    if (options_.broadcast_buffers) {
      for (const at::Tensor& buffer : module_->buffers()) tensors.push_back(buffer);
    }
    return tensors;
  }

  void broadcast_from(int64_t source, std::vector<at::Tensor> tensors) {
    const at::NoGradGuard no_grad;
    for (at::Tensor& tensor : tensors) tensor = tensor.detach();
    if (!tensors.empty()) c10d::broadcast_coalesced(ranks_, tensors, kBroadcastBytes, static_cast<int>(source));
  }

  void cut_buckets() {
    if (reducer_->buckets_are_due()) take({.kind = Turn::Kind::kCut});
    reducer_->cut_buckets();
  }

  void finish() {
    const auto outcome = reducer_->finish();
    if (outcome == GradientReducer::Outcome::kUntouched) return;
    const bool incomplete = outcome == GradientReducer::Outcome::kIncomplete;
    if (incomplete || reducer_->looks_spoiled()) require_complete(incomplete);
    cut_buckets();
    accumulated_ = false;
  }

  /// Some rank may lack gradients; `here` if this one does.
  void require_complete(bool here) {
    Ends ends(reducer_->parameters().size(), kGotGradient);
    if (here) {
      ends = reducer_->without_gradient();
      reducer_->give_up();
    }
    std::vector<Ends> all(group_.size(), Ends(ends.size(), kGotGradient));
    if (reducer_->looks_spoiled()) {
      all = exchange(ends);
    } else {
      all[group_.rank()] = ends;  // buckets that the host cannot read: the other ranks find NaN, or this one gone
    }
    // Else the model itself has come to NaN, on every rank.
    if (!all_good(all)) throw incomplete_backward(module_->name(), names(), all);
  }

  /// Ranks whose pass goes well wait for this one's buckets and have to hear why there is nothing in them. True if the
  /// reducer can be used again.
  bool end_early(const at::Tensor& loss) {
    if (!reducer_->drain()) return false;
    if (!reducer_->touched() && !reaches(loss, reducer_->accumulators())) {
      reducer_->finish();
      return true;
    }
    reducer_->give_up();
    if (reducer_->looks_spoiled()) {
      exchange(Ends(reducer_->parameters().size(), kThrew));
      return false;
    }
    cut_buckets();
    return true;
  }

  std::vector<Ends> exchange(const Ends& ends) {
    take({.kind = Turn::Kind::kEnds, .count = static_cast<int64_t>(ends.size())});
    return exchange_quietly(ends);
  }

  std::vector<Ends> exchange_quietly(const Ends& ends) const {
    const int64_t count = static_cast<int64_t>(ends.size());
    at::Tensor own = at::empty({1, count}, at::kByte);
    std::copy(ends.begin(), ends.end(), own.data_ptr<uint8_t>());
    const at::Tensor all = group_.all_gather(own.to(reducer_->parameters().front().tensor.device())).cpu();
    std::vector<Ends> ranks;
    for (int64_t rank = 0; rank < group_.size(); ++rank) {
      const auto* begin = all.const_data_ptr<uint8_t>() + rank * count;
      ranks.emplace_back(begin, begin + count);
    }
    return ranks;
  }

  static bool all_good(const std::vector<Ends>& ranks) {
    return std::all_of(ranks.begin(), ranks.end(), [](const Ends& ends) {
      return std::all_of(ends.begin(), ends.end(), [](uint8_t end) { return end == kGotGradient; });
    });
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const ReducedParameter& parameter : reducer_->parameters()) names.push_back(parameter.name);
    return names;
  }

  // Ranks whose data has come to its end: strategy/uneven.h.

  void take(const Turn& turn) {
    if (turns_ != nullptr) turns_->take(turn);
  }

  void tell(Turns* turns) noexcept override {
    turns_ = ranks_ ? turns : nullptr;
    if (ranks_) tell_reducer();
  }

  void tell_reducer() noexcept {
    if (turns_ == nullptr) {
      ranks_->on_reduction({});
      if (reducer_) reducer_->on_hook({});
      return;
    }
    ranks_->on_reduction([this](const at::Tensor& tensor) { take(turn_for(tensor)); });
    if (reducer_) {
      reducer_->on_hook(
          [this](size_t bucket) { take({.kind = Turn::Kind::kHook, .count = static_cast<int64_t>(bucket)}); });
    }
  }

  Turn turn_for(const at::Tensor& tensor) const {
    if (!tensor.is_sparse()) {
      return {.kind = Turn::Kind::kReduction, .dtype = tensor.scalar_type(), .count = tensor.numel()};
    }
    const auto& parameters = reducer_->parameters();
    const auto found = std::find_if(parameters.begin(), parameters.end(), [&](const ReducedParameter& parameter) {
      return parameter.sparse_gradient && parameter.tensor.sizes() == tensor.sizes();
    });
    return {.kind = Turn::Kind::kSparse, .count = found - parameters.begin()};
  }

  void shadow(const Turn& turn) override {
    if (!reducer_) build_reducer();
    if (options_.static_graph && turn.kind != Turn::Kind::kBuffers && !reducer_->was_armed()) {
      throw static_graph_not_recorded(module_->name());
    }
    const at::NoGradGuard no_grad;
    switch (turn.kind) {
      case Turn::Kind::kBuffers:
        return broadcast_from(turns_->source(), module_->buffers());
      case Turn::Kind::kReduction: {
        const auto options = candidates_.front().parameter.tensor.options().dtype(turn.dtype);
        return reduce_quietly(at::zeros({turn.count}, options));
      }
      case Turn::Kind::kSparse: {
        const at::Tensor& parameter = reducer_->parameters()[static_cast<size_t>(turn.count)].tensor;
        return reduce_quietly(at::_sparse_coo_tensor_with_dims(1, parameter.dim() - 1, parameter.sizes(),
                                                               parameter.options().layout(at::kSparse)));
      }
      case Turn::Kind::kHook:
        return reducer_->shadow_hook(static_cast<size_t>(turn.count));
      case Turn::Kind::kEnds: {
        const auto all = exchange_quietly(Ends(static_cast<size_t>(turn.count), kGotGradient));
        if (!all_good(all)) throw incomplete_backward(module_->name(), names(), all);
        return;
      }
      case Turn::Kind::kCut:
        return reducer_->shadow_cut();
      default:
        return;
    }
  }

  void reduce_quietly(const at::Tensor& nothing) {
    const ReducerGroup::InHook quiet(*ranks_);
    ranks_->sum(nothing)->waitAndThrow();
    ranks_->settle();  // nothing is armed here while the others run pass after pass
  }

  void adopt(int64_t source) override {
    if (!ranks_) return;
    broadcast_from(source, state());
    buffers_are_due_ = true;
  }

  void start_over() override {
    if (!ranks_) return;
    reducer_.reset();
    hook_ = make_hook(options_);
    buffers_are_due_ = true;
    armed_ = false;
    loss_.reset();
  }

  static constexpr int64_t kMain = 0;
  Ddp options_;
  std::unique_ptr<CommHook> hook_;  ///< null: the Reducer's own all-reduce
  torch::nn::Module* module_ = nullptr;
  Group group_;
  Log log_{{}, 0};
  std::vector<Candidate> candidates_;         ///< every parameter once
  c10::intrusive_ptr<ReducerGroup> ranks_;    ///< null: nothing is exchanged
  std::unique_ptr<GradientReducer> reducer_;  ///< null after a failure, until the next backward
  at::Tensor loss_;                           ///< of the armed pass
  bool armed_ = false;
  bool accumulates_ = false;  ///< the pass in progress stays local
  bool accumulated_ = false;  ///< some pass has stayed local since the last reduction
  bool stray_ = false;        ///< gradients from outside the Accelerator were there before the pass in progress
  bool has_buffers_ = false;
  bool buffers_are_due_ = true;
  Turns* turns_ = nullptr;  ///< in join_uneven_inputs
};

std::unique_ptr<Strategy> make_ddp(const std::any& options) {
  if (!options.has_value()) return std::make_unique<DdpStrategy>(Ddp{});
  const auto* given = std::any_cast<Ddp>(&options);
  if (given == nullptr) {
    throw ConfigError({.place = "strategy",
                       .what = "The strategy \"ddp\" was given the options of another one",
                       .got = "options that are no accelerate::Ddp",
                       .expected = "accelerate::Ddp{...}, or the name alone",
                       .remedy = "Write `.strategy = accelerate::Ddp{.bucket_cap_mb = 25}`"});
  }
  if (!(given->bucket_cap_mb > 0)) {
    throw ConfigError({.place = "strategy",
                       .what = "The size of a bucket is not positive",
                       .got = words(*given),
                       .expected = ".bucket_cap_mb more than 0",
                       .remedy = "Leave it out for 25 MiB"});
  }
  return std::make_unique<DdpStrategy>(*given);
}

}  // namespace

StrategyEntry strategy_ddp() {
  return {"ddp", /*preference=*/0,
          [](const World& world) -> std::optional<std::string> {
            if (world.size > 1) return std::nullopt;
            return "one process has nobody to average gradients with";
          },
          make_ddp};
}

}  // namespace accelerate::internal
