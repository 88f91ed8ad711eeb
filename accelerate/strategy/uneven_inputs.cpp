#include "accelerate/strategy/uneven_inputs.h"

#include <algorithm>
#include <utility>

#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

constexpr int64_t kSkewWarning = 1000;  // Source: `Join.__exit__`

// kind, model, dtype and count in one number, so that a turn is one small exchange.
constexpr int kCountBits = 36;
constexpr int kDtypeBits = 8;
constexpr int kModelBits = 14;

int64_t packed(int64_t model, const Turn& turn) {
  return ((static_cast<int64_t>(turn.kind) << kModelBits | model) << kDtypeBits | static_cast<int64_t>(turn.dtype))
             << kCountBits |
         turn.count;
}

int64_t low_bits(int64_t number, int bits) { return number & ((int64_t{1} << bits) - 1); }

Turn::Kind kind_of(int64_t number) { return static_cast<Turn::Kind>(number >> (kCountBits + kDtypeBits + kModelBits)); }
int64_t model_of(int64_t number) { return low_bits(number >> (kCountBits + kDtypeBits), kModelBits); }
Turn turn_of(int64_t number) {
  return {.kind = kind_of(number),
          .dtype = static_cast<c10::ScalarType>(low_bits(number >> kCountBits, kDtypeBits)),
          .count = low_bits(number, kCountBits)};
}

std::string text_of(const Turn& turn) {
  switch (turn.kind) {
    case Turn::Kind::kBuffers:
      return "a broadcast of the buffers";
    case Turn::Kind::kReduction:
      return "an all-reduce of " + std::to_string(turn.count) + " x " + c10::toString(turn.dtype);
    case Turn::Kind::kSparse:
      return "an all-reduce of the sparse gradient of parameter " + std::to_string(turn.count);
    case Turn::Kind::kHook:
      return "the communication hook of bucket " + std::to_string(turn.count);
    case Turn::Kind::kEnds:
      return "how the backward pass ended";
    case Turn::Kind::kCut:
      return "the order of the gradients";
    case Turn::Kind::kCounts:
      return "a count";
    default:
      return "nothing";
  }
}

[[noreturn]] void throw_counted(Counted what) {
  const bool losses = what == Counted::kLosses;
  throw UsageError({.place = losses ? "backward" : "scheduler.step",
                    .what = "Counts are summed over all processes, which inside join_uneven_inputs may have no data",
                    .got = losses ? ".num_items or .weight" : "step(Seen{...})",
                    .expected = "counts in loops over even batches only",
                    .remedy = losses ? "Pass JoinOptions{.even_batches = true}, or leave the count out"
                                     : "Pass JoinOptions{.even_batches = true}, or give the schedule another unit"});
}

}  // namespace

class UnevenInputs::Speaker final : public Turns {
 public:
  Speaker(UnevenInputs& all, int64_t model) : all_(all), model_(model) {}
  void take(Turn turn) override { all_.take(model_, turn); }
  int64_t source() const override { return all_.source_; }

 private:
  UnevenInputs& all_;
  int64_t model_;
};

UnevenInputs::UnevenInputs(Group group, Log log, std::vector<Model> models)
    : group_(std::move(group)), log_(std::move(log)), models_(std::move(models)), source_(group_.size() - 1) {
  for (size_t i = 0; i < models_.size(); ++i) {
    speakers_.push_back(std::make_unique<Speaker>(*this, static_cast<int64_t>(i)));
  }
  for (size_t i = 0; i < models_.size(); ++i) {
    if (models_[i].shadow != nullptr) models_[i].shadow->tell(speakers_[i].get());
  }
}

UnevenInputs::~UnevenInputs() {
  for (const Model& model : models_) {
    if (model.shadow != nullptr) model.shadow->tell(nullptr);
  }
}

void UnevenInputs::take(int64_t model, Turn turn) {
  const Model& own = models_[static_cast<size_t>(model)];
  if (!own.joins) {
    throw UsageError({.place = "join_uneven_inputs",
                      .what = "A model of the loop exchanges " + text_of(turn) + " and is not in the list",
                      .got = "no " + own.name + " among the models given",
                      .expected = "every model that is trained, or has buffers and is run, in the loop",
                      .remedy = "Add it: `accelerator.join_uneven_inputs({model, other}, ...)`"});
  }
  const int64_t number = packed(model, turn);
  require_one_turn(exchange(number));
}

void UnevenInputs::refuse(Counted what) {
  require_one_turn(exchange(packed(0, {.kind = Turn::Kind::kCounts, .count = static_cast<int64_t>(what)})));
  over_ = true;
  throw_counted(what);
}

std::vector<int64_t> UnevenInputs::exchange(int64_t own) {
  if (over_) {
    throw CommError({.place = "join_uneven_inputs",
                     .what = "The ranks have come apart",
                     .got = "an exchange after a rank has left the loop with an exception",
                     .expected = "none",
                     .remedy = "The first error says which rank it was"});
  }
  std::vector<int64_t> turns = all_gather_numbers(group_, own);
  std::string failed;
  for (size_t rank = 0; rank < turns.size(); ++rank) {
    if (kind_of(turns[rank]) == Turn::Kind::kFailed) failed += (failed.empty() ? "" : ", ") + std::to_string(rank);
    if (kind_of(turns[rank]) > Turn::Kind::kFailed) source_ = static_cast<int64_t>(rank);
  }
  if (failed.empty()) return turns;
  over_ = true;
  throw CommError(
      {.place = "join_uneven_inputs",
       .what = "A rank has left the loop with an exception",
       .got = "rank " + failed,
       .expected = "every rank to come to the end of its data",
       .remedy = "Its own error says why. The ranks' parameters may differ now: load a checkpoint to go on"});
}

void UnevenInputs::require_one_turn(const std::vector<int64_t>& turns) {
  std::string found;
  int64_t first = 0;
  bool differ = false;
  for (size_t rank = 0; rank < turns.size(); ++rank) {
    if (kind_of(turns[rank]) == Turn::Kind::kOutOfData) continue;
    if (first == 0) first = turns[rank];
    differ = differ || turns[rank] != first;
    found += (found.empty() ? "" : "; ") + text_of(turn_of(turns[rank])) + " of " +
             models_[static_cast<size_t>(model_of(turns[rank]))].name + " on rank " + std::to_string(rank);
  }
  if (!differ) return;
  over_ = true;
  throw CommError({.place = "join_uneven_inputs",
                   .what = "The ranks that still have data exchange different things",
                   .got = found,
                   .expected = "the same models in the same order on each of them",
                   .remedy = "Run the same models, and as many backward passes for each, on every rank that has data"});
}

void UnevenInputs::finish() {
  for (int64_t turn = 0;; ++turn) {
    const std::vector<int64_t> turns = exchange(0);
    const int64_t next = *std::max_element(turns.begin(), turns.end());
    if (kind_of(next) == Turn::Kind::kOutOfData) break;
    require_one_turn(turns);
    if (kind_of(next) == Turn::Kind::kCounts) {
      over_ = true;
      throw_counted(static_cast<Counted>(turn_of(next).count));
    }
    models_[static_cast<size_t>(model_of(next))].shadow->shadow(turn_of(next));
    if (turn == kSkewWarning) {
      log_.warning("join_uneven_inputs: this rank has waited for " + std::to_string(kSkewWarning) +
                   " exchanges of ranks with more data than it had");
    }
  }
  over_ = true;
  for (const Model& model : models_) {
    if (model.joins && model.shadow != nullptr) model.shadow->adopt(source_);
  }
}

void UnevenInputs::fail() noexcept {
  if (!over_) {
    over_ = true;
    try {
      // Not through `exchange`: whoever else has failed meanwhile does the same.
      all_gather_numbers(group_, packed(0, {.kind = Turn::Kind::kFailed}));
    } catch (const std::exception& error) {
      // A lost rank, of which everybody hears; the exception on its way says more.
      log_.info(std::string("join_uneven_inputs: ") + error.what());
    }
  }
  for (const Model& model : models_) {
    if (model.shadow == nullptr) continue;
    try {
      model.shadow->start_over();
    } catch (const std::exception& error) {
      log_.warning("join_uneven_inputs: " + model.name + ": " + error.what());
    }
  }
}

}  // namespace accelerate::internal
