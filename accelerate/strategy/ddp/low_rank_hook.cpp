#include "accelerate/strategy/ddp/low_rank_hook.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <sstream>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/strategy/ddp/low_rank.h"

namespace accelerate::internal {
namespace {

/// What is remembered of a bucket from pass to pass.
struct Memory {
  at::Tensor p;
  at::Tensor q;
  at::Tensor first_q;  ///< what `q` began with
  at::Tensor error;
};

at::Tensor finite_or_zero(const at::Tensor& tensor) {
  return at::where(tensor.isfinite(), tensor, at::zeros({}, tensor.options()));
}

/// One bucket on its way.
struct Pass {
  size_t index = 0;
  at::Tensor buffer;                 ///< of the bucket
  at::Tensor input;                  ///< the same, or its padded copy
  std::vector<at::Tensor> matrices;  ///< [count, rows, columns]: views of `input`, or copies of several of its parts
  std::vector<std::vector<at::Tensor>> copied;  ///< for each matrix the parts that it is a copy of
  std::vector<at::Tensor> ps, qs;               ///< views of the memory
  at::Tensor p, q;
  std::vector<at::Tensor> exact;  ///< parts of `input` that are not compressed
  at::Tensor exact_sum;
  HookFuture exact_arrives, arrives;
  bool q_sent = false;
  HookFuture result;
};

HookFuture pending_tensor(c10::Device device) {
  std::vector<c10::Device> devices;
  if (!device.is_cpu()) devices.push_back(device);
  return c10::make_intrusive<c10::ivalue::Future>(c10::TensorType::get(), devices);
}

class LowRankHook final : public CommHook {
 public:
  LowRankHook(LowRankCut cut, const PowerSgd& options)
      : cut_(cut), options_(options), seeds_(static_cast<uint32_t>(options.random_seed)) {}

  HookFuture run(HookCall call) override {
    if (call.index == 0) under_way_.clear();  // of a pass that failed
    if (passes_ < options_.start_powerSGD_iter) {
      if (call.last) count_pass(call.log);
      return average(call.bucket.getBuffer(), call.ranks);
    }
    under_way_.push_back(begin(call));
    const HookFuture result = under_way_.back().result;
    // What earlier buckets have sent has had the time of this one's gradients to arrive.
    size_t arriving = 0;
    while (arriving < under_way_.size() && under_way_[arriving].q_sent) ++arriving;
    const size_t own = under_way_.size() - 1;
    for (size_t i = arriving; i < (call.last ? own + 1 : own); ++i) send_q(under_way_[i], call.ranks);
    for (size_t done = call.last ? own + 1 : arriving; done > 0; --done) {
      finish(under_way_.front(), call.ranks.getSize());
      under_way_.pop_front();
    }
    if (call.last) count_pass(call.log);
    return result;
  }

  void forget() override {
    under_way_.clear();
    memories_.clear();
  }

 private:
  void count_pass(const Log& log) {
    if (++passes_ == options_.start_powerSGD_iter) {
      log.info("PowerSGD begins after " + std::to_string(passes_) + " averaged backward passes");
    }
  }

  Pass begin(const HookCall& call) {
    Pass pass;
    pass.index = call.index;
    pass.buffer = call.bucket.getBuffer();
    pass.input = cut_ == LowRankCut::kBucket ? padded(pass.buffer) : pass.buffer;
    pass.result = pending_tensor(pass.buffer.device());
    Memory& memory = memories_[call.index];
    if (options_.use_error_feedback) {
      if (memory.error.defined()) {
        // A batch that was not finite has cost its own update; remembered, it would cost every later one.
        pass.input.add_(finite_or_zero(memory.error));
      } else {
        memory.error = at::empty_like(pass.input);
      }
      memory.error.copy_(pass.input);
    }
    cut(pass, call.bucket);
    report(call);
    if (!pass.exact.empty()) {
      std::vector<at::Tensor> flat;
      for (const at::Tensor& part : pass.exact) flat.push_back(part.reshape({-1}));
      pass.exact_sum = at::cat(flat);
      pass.exact_arrives = call.ranks.sum(pass.exact_sum);
    }
    if (!pass.matrices.empty()) {
      send_p(pass, memory, call.ranks);
      if (!options_.warm_start) memory.p = memory.q = at::Tensor();
    }
    return pass;
  }

  /// A square with `buffer` in its first rows.
  static at::Tensor padded(const at::Tensor& buffer) {
    const int64_t length = buffer.numel();
    const auto side = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(length))));
    if (side * side == length) return buffer;
    at::Tensor square = at::zeros({side * side}, buffer.options());
    square.narrow(0, 0, length).copy_(buffer);
    return square;
  }

  Compression compression(int64_t rows, int64_t columns) const {
    return {.rows = rows, .columns = columns, .rank = std::min({rows, columns, options_.matrix_approximation_rank})};
  }

  void cut(Pass& pass, const c10d::GradBucket& bucket) {
    if (cut_ == LowRankCut::kBucket) {
      const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(pass.input.numel()))));
      if (side == 0) return;
      numbers_before_ += pass.buffer.numel();
      numbers_after_ += compression(side, side).after();
      pass.matrices.push_back(pass.input.view({1, side, side}));
      pass.copied.emplace_back();
      return;
    }
    // In the order in which shapes come first: that of the random numbers.
    std::vector<std::vector<at::Tensor>> shapes;
    for (const at::Tensor& gradient : bucket.getGradients()) {
      const bool matrix = gradient.dim() > 0 && gradient.numel() > 0;
      const at::Tensor rows = matrix ? gradient.view({gradient.size(0), -1}) : gradient;
      const Compression how = matrix ? compression(rows.size(0), rows.size(1)) : Compression{};
      numbers_before_ += gradient.numel();
      if (!matrix || !how.is_worth(options_.min_compression_rate)) {
        numbers_after_ += gradient.numel();
        if (gradient.numel() > 0) pass.exact.push_back(gradient);
        continue;
      }
      numbers_after_ += how.after();
      const auto same = [&](const auto& others) { return others.front().sizes() == rows.sizes(); };
      const auto found = std::find_if(shapes.begin(), shapes.end(), same);
      if (found == shapes.end()) {
        shapes.push_back({rows});
      } else {
        found->push_back(rows);
      }
    }
    for (const std::vector<at::Tensor>& parts : shapes) {
      if (options_.batch_tensors_with_same_shape && parts.size() > 1) {
        pass.matrices.push_back(at::stack(parts));
        pass.copied.push_back(parts);
        continue;
      }
      for (const at::Tensor& part : parts) {
        pass.matrices.push_back(part.unsqueeze(0));
        pass.copied.emplace_back();
      }
    }
  }

  void send_p(Pass& pass, Memory& memory, ReducerGroup& ranks) {
    const bool random = !memory.q.defined();
    int64_t rows = 0, columns = 0;
    for (const at::Tensor& matrix : pass.matrices) {
      const int64_t rank = compression(matrix.size(1), matrix.size(2)).rank;
      rows += matrix.size(0) * matrix.size(1) * rank;
      columns += matrix.size(0) * matrix.size(2) * rank;
    }
    if (random) {
      memory.p = at::empty({rows}, pass.input.options());
      memory.q = at::empty({columns}, pass.input.options());
    } else {
      // The same on every rank, as sums are; the device is not waited for.
      memory.q.copy_(at::where(memory.q.isfinite().all(), memory.q, memory.first_q));
    }
    pass.p = memory.p;
    pass.q = memory.q;
    rows = columns = 0;
    for (const at::Tensor& matrix : pass.matrices) {
      const int64_t count = matrix.size(0), n = matrix.size(1), m = matrix.size(2);
      const int64_t rank = compression(n, m).rank;
      pass.ps.push_back(pass.p.narrow(0, rows, count * n * rank).view({count, n, rank}));
      pass.qs.push_back(pass.q.narrow(0, columns, count * m * rank).view({count, m, rank}));
      rows += count * n * rank;
      columns += count * m * rank;
    }
    // The same on every rank; the generators of the program are left alone.
    at::Generator generator;
    if (random) generator = at::detail::createCPUGenerator(seeds_.next());
    for (const at::Tensor& q : pass.qs) {
      if (random) q.copy_(at::randn(q.sizes(), generator, q.options().device(at::kCPU)));
    }
    if (random && options_.warm_start) memory.first_q = memory.q.clone();
    for (const at::Tensor& q : pass.qs) {
      orthogonalize(q, options_.orthogonalization_epsilon);
    }
    for (size_t i = 0; i < pass.matrices.size(); ++i) at::bmm_out(pass.ps[i], pass.matrices[i], pass.qs[i]);
    pass.arrives = ranks.sum(pass.p);
  }

  void send_q(Pass& pass, ReducerGroup& ranks) {
    pass.q_sent = true;
    if (!pass.q.defined()) return;  // nothing is compressed
    pass.arrives->waitAndThrow();
    for (size_t i = 0; i < pass.matrices.size(); ++i) {
      orthogonalize(pass.ps[i], options_.orthogonalization_epsilon);
      at::bmm_out(pass.qs[i], pass.matrices[i].transpose(1, 2), pass.ps[i]);
    }
    pass.arrives = ranks.sum(pass.q);
  }

  void finish(Pass& pass, int ranks) {
    if (pass.exact_sum.defined()) {
      pass.exact_arrives->waitAndThrow();
      pass.exact_sum.div_(ranks);
      int64_t begin = 0;
      for (const at::Tensor& part : pass.exact) {
        part.copy_(pass.exact_sum.narrow(0, begin, part.numel()).view(part.sizes()));
        begin += part.numel();
      }
    }
    if (pass.q.defined()) {
      pass.arrives->waitAndThrow();
      pass.q.div_(ranks);
      for (size_t i = 0; i < pass.matrices.size(); ++i) {
        at::bmm_out(pass.matrices[i], pass.ps[i], pass.qs[i].transpose(1, 2));
        for (size_t k = 0; k < pass.copied[i].size(); ++k) {
          pass.copied[i][k].copy_(pass.matrices[i][static_cast<int64_t>(k)]);
        }
      }
    }
    if (options_.use_error_feedback) memories_[pass.index].error.sub_(pass.input);
    if (!pass.input.is_same(pass.buffer)) pass.buffer.copy_(pass.input.narrow(0, 0, pass.buffer.numel()));
    pass.result->markCompleted(c10::IValue(pass.buffer));
  }

  void report(const HookCall& call) {
    if (!call.last || passes_ < next_report_) return;
    next_report_ = passes_ + std::max<int64_t>(1, options_.compression_stats_logging_frequency);
    std::ostringstream line;
    line << "PowerSGD after " << passes_ << " passes: " << numbers_before_ << " numbers before compression, "
         << numbers_after_ << " after it, rate "
         << (numbers_after_ > 0 ? static_cast<double>(numbers_before_) / static_cast<double>(numbers_after_) : 0.0);
    call.log.info(line.str());
  }

  LowRankCut cut_;
  PowerSgd options_;
  RandintSeeds seeds_;
  std::map<size_t, Memory> memories_;  ///< by bucket
  std::deque<Pass> under_way_;
  int64_t passes_ = 0;
  int64_t next_report_ = 0;
  int64_t numbers_before_ = 0;
  int64_t numbers_after_ = 0;
};

[[noreturn]] void throw_out_of_range(const std::string& what, const std::string& got, const std::string& expected) {
  throw ConfigError({.place = "comm_state_option",
                     .what = what,
                     .got = "PowerSgd{" + got + "}",
                     .expected = expected,
                     .remedy = "Leave the field out for its default"});
}

void check(const PowerSgd& options) {
  if (options.matrix_approximation_rank < 1) {
    throw_out_of_range("The rank of the approximation is not positive",
                       ".matrix_approximation_rank = " + std::to_string(options.matrix_approximation_rank),
                       "1 or more");
  }
  if ((options.use_error_feedback || options.warm_start) && options.start_powerSGD_iter <= 1) {
    throw_out_of_range("PowerSGD remembers buckets, and those are cut anew after the first backward pass",
                       ".start_powerSGD_iter = " + std::to_string(options.start_powerSGD_iter),
                       "2 or more with .use_error_feedback or .warm_start");
  }
  constexpr int64_t kLargestSeed = std::numeric_limits<uint32_t>::max();
  if (options.random_seed < 0 || options.random_seed > kLargestSeed) {
    throw_out_of_range("The seed is out of range", ".random_seed = " + std::to_string(options.random_seed),
                       "0 to " + std::to_string(kLargestSeed));
  }
  if (!(options.min_compression_rate >= 0) || !(options.orthogonalization_epsilon >= 0)) {
    std::ostringstream got;
    got << ".min_compression_rate = " << options.min_compression_rate
        << ", .orthogonalization_epsilon = " << options.orthogonalization_epsilon;
    throw_out_of_range("A number is negative", got.str(), "0 or more");
  }
}

}  // namespace

std::unique_ptr<CommHook> low_rank_hook(LowRankCut cut, const CommStateOption& state) {
  const auto* given = std::get_if<PowerSgd>(&state);
  const PowerSgd options = given != nullptr ? *given : PowerSgd{};
  check(options);
  return std::make_unique<LowRankHook>(cut, options);
}

}  // namespace accelerate::internal
