#pragma once

#include <algorithm>
#include <cmath>
#include <string>

namespace parity {

/// How far a replayed number may lie from the original's, relative to max(1, |number|).
///
/// Both sides run the same kernels, except for the optimizers: the original steps tensor by tensor, this library
/// through fused kernels, which round differently in the last bit; another processor adds sums in another order.
/// Training carries these bits along.
/// - float64: 1e-10, a million times its rounding, so any difference in a formula shows.
/// - float32: 2e-6 at the first micro-step, where only one forward lies behind; 1e-5 after.
/// - bf16: 1e-2, about one unit in the last place of a bfloat16 (2^-8), where autocast rounds.
/// - fp16: 2e-3, about two units in the last place of a float16 (2^-11).
/// - float64 with a line search, on a GPU: from 1e-10 twice as much at each micro-step. It divides small differences of
///   losses, which makes the last bits grow: to 4.5e-8 after 17 micro-steps, 1.1e-5 after 21, 1.5e-4 after 25.
/// The kernels of a GPU keep these bounds too: benchmarks/results has the deviations measured there.
/// Learning rates and flags involve no sums: they have no tolerance.
class Tolerance {
 public:
  Tolerance(const std::string& dtype, const std::string& mixed_precision)
      : Tolerance(mixed_precision == "no" ? dtype : mixed_precision) {}

  static Tolerance of_line_search_on_gpu() { return Tolerance(1e-10, 1e-10, 2); }

  double at(size_t micro_step) const {
    return micro_step == 0 ? first_ : later_ * std::pow(growth_, static_cast<double>(micro_step));
  }

  static double deviation(double got, double expected) {
    return std::abs(got - expected) / std::max(1.0, std::abs(expected));
  }
  /// False for NaN.
  static bool within(double tolerance, double got, double expected) { return deviation(got, expected) <= tolerance; }

 private:
  Tolerance(double first, double later, double growth) : first_(first), later_(later), growth_(growth) {}
  explicit Tolerance(const std::string& computed)
      : first_(computed == "bf16"      ? 1e-2
               : computed == "fp16"    ? 2e-3
               : computed == "float32" ? 2e-6
                                       : 1e-10),
        later_(computed == "bf16"      ? 1e-2
               : computed == "fp16"    ? 2e-3
               : computed == "float32" ? 1e-5
                                       : 1e-10) {}
  double first_;
  double later_;
  double growth_ = 1;
};

}  // namespace parity
