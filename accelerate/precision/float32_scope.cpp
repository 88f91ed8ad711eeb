#include "accelerate/precision/float32_scope.h"

#include <ATen/Context.h>

#include <mutex>
#include <string>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using at::Float32Backend;
using at::Float32Op;
using at::Float32Precision;

const char* name_of(at::Float32MatmulPrecision precision) {
  switch (precision) {
    case at::Float32MatmulPrecision::HIGHEST:
      return "highest";
    case at::Float32MatmulPrecision::HIGH:
      return "high";
    case at::Float32MatmulPrecision::MEDIUM:
      return "medium";
  }
  return "highest";
}

/// All that the switches change in LibTorch.
struct State {
  std::string matmul = name_of(at::globalContext().float32MatmulPrecision());
  Float32Precision cuda = at::globalContext().float32Precision(Float32Backend::CUDA, Float32Op::MATMUL);
  Float32Precision mkldnn = at::globalContext().float32Precision(Float32Backend::MKLDNN, Float32Op::MATMUL);
  bool cudnn = at::globalContext().allowTF32CuDNN();
};

void restore(const State& state) {
  at::Context& context = at::globalContext();
  context.setFloat32MatmulPrecision(state.matmul);
  context.setFloat32Precision(Float32Backend::CUDA, Float32Op::MATMUL, state.cuda);
  context.setFloat32Precision(Float32Backend::MKLDNN, Float32Op::MATMUL, state.mkldnn);
  context.setAllowTF32CuDNN(state.cudnn);
}

void apply(const Float32Kwargs& options) {
  at::Context& context = at::globalContext();
  if (options.matmul_precision) context.setFloat32MatmulPrecision(*options.matmul_precision);
  if (options.cuda_matmul_allow_tf32) context.setAllowTF32CuBLAS(*options.cuda_matmul_allow_tf32);
  if (options.cudnn_allow_tf32) context.setAllowTF32CuDNN(*options.cudnn_allow_tf32);
}

/// The scopes that are alive, oldest first: the switches are the process's, so is the list of who has set them.
struct Scopes {
  std::mutex mutex;
  int64_t last = 0;
  std::optional<State> before;
  std::vector<std::pair<int64_t, Float32Kwargs>> alive;

  static Scopes& of_process() {
    static Scopes scopes;
    return scopes;
  }
  void apply_all() const {
    restore(*before);
    for (const auto& [number, options] : alive) apply(options);
  }
};

std::string yes_no(bool value) { return value ? "true" : "false"; }

}  // namespace

void check(const Float32Kwargs& options, c10::Device device) {
  const auto& precision = options.matmul_precision;
  if (precision && *precision != "highest" && *precision != "high" && *precision != "medium") {
    throw ConfigError({.place = "float32",
                       .what = "The precision of products is not known",
                       .got = ".matmul_precision = \"" + *precision + "\"",
                       .expected = "\"highest\", \"high\" or \"medium\"",
                       .remedy = "Correct AcceleratorOptions::float32, or leave it out"});
  }
  const auto& allow = options.cuda_matmul_allow_tf32;
  if (precision && allow && (*precision != "highest") != *allow) {
    throw ConfigError(
        {.place = "float32",
         .what = "Two fields say the opposite of each other",
         .got = ".matmul_precision = \"" + *precision + "\" and .cuda_matmul_allow_tf32 = " + yes_no(*allow),
         .expected = "one of the two",
         .remedy = "Keep .matmul_precision, which holds for every device"});
  }
  const bool tf32 = allow.value_or(false) || options.cudnn_allow_tf32.value_or(false);
  if (!tf32 || !device.is_cpu()) return;
  throw ConfigError({.place = "float32",
                     .what = "The CPU has no TF32, which these fields are about",
                     .got = allow.value_or(false) ? ".cuda_matmul_allow_tf32 = true" : ".cudnn_allow_tf32 = true",
                     .expected = "a GPU",
                     .remedy = "Use .matmul_precision = \"high\", which holds for every device, or leave it out"});
}

std::vector<Field> fields_of(const Float32Kwargs& options) {
  const auto field = [](const char* name, const std::optional<std::string>& value) {
    return Field{name, value.value_or("unset"), value ? "argument" : "default"};
  };
  const auto text = [](std::optional<bool> value) {
    return value ? std::optional<std::string>(yes_no(*value)) : std::nullopt;
  };
  return {field("float32_matmul_precision", options.matmul_precision),
          field("cuda_matmul_allow_tf32", text(options.cuda_matmul_allow_tf32)),
          field("cudnn_allow_tf32", text(options.cudnn_allow_tf32))};
}

Float32Scope::Float32Scope(const Float32Kwargs& options) {
  if (options == Float32Kwargs{}) return;
  Scopes& scopes = Scopes::of_process();
  const std::lock_guard lock(scopes.mutex);
  if (scopes.alive.empty()) scopes.before.emplace();
  scopes.alive.emplace_back(scopes.last + 1, options);
  number_ = ++scopes.last;
  apply(options);
}

void Float32Scope::end() noexcept {
  if (number_ == 0) return;
  Scopes& scopes = Scopes::of_process();
  const std::lock_guard lock(scopes.mutex);
  std::erase_if(scopes.alive, [&](const auto& scope) { return scope.first == number_; });
  number_ = 0;
  scopes.apply_all();
}

}  // namespace accelerate::internal
