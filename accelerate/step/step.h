#pragma once

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "accelerate/tensor/tree.h"

namespace accelerate {
namespace internal {

class StepRecorder;

/// The boundaries of the steps of one step object. Does nothing without `.cuda_graph`, and after training has ended.
class StepBoundary {
 public:
  explicit StepBoundary(std::weak_ptr<StepRecorder> recorder, std::function<bool()> synchronizes)
      : recorder_(std::move(recorder)), synchronizes_(std::move(synchronizes)) {}
  /// With the tensors that the step is called with.
  void begin(const std::function<void(TensorVisitor)>& inputs) const;
  void end() const;
  /// It threw.
  void leave() const;

 private:
  std::weak_ptr<StepRecorder> recorder_;
  std::function<bool()> synchronizes_;
};

}  // namespace internal

/// The loop body as an object: what it does between the beginning and the end of a call is one step, with any number of
/// models and optimizers. With `.cuda_graph` each call is captured and replayed as a whole; without, a call costs what
/// the body costs. It returns what the body returns.
template <class Body>
class Step {
 public:
  Step(Body body, internal::StepBoundary boundary)
      : body_(std::move(body)), boundary_(std::make_shared<internal::StepBoundary>(std::move(boundary))) {}

  template <class... Args>
  auto operator()(Args&&... args) {
    boundary_->begin([&](internal::TensorVisitor visit) {
      [[maybe_unused]] const auto look = [&]<class T>(T& argument) {
        if constexpr (internal::Flattenable<T>) {
          internal::for_each_tensor(const_cast<std::remove_const_t<T>&>(argument), visit);  // only looked at
        }
      };
      (look(args), ...);
    });
    try {
      using Result = std::invoke_result_t<Body&, Args...>;
      if constexpr (std::is_void_v<Result>) {
        std::invoke(body_, std::forward<Args>(args)...);
        boundary_->end();
      } else {
        std::remove_cvref_t<Result> result = std::invoke(body_, std::forward<Args>(args)...);
        boundary_->end();
        return result;
      }
    } catch (...) {
      boundary_->leave();
      throw;
    }
  }

 private:
  Body body_;
  std::shared_ptr<internal::StepBoundary> boundary_;
};

}  // namespace accelerate
