// Loss traces of precisions: a small transformer learns the characters of a text, from the same first weights on the
// same batches in every precision. Writes one Markdown table: losses, their distance to float32, bytes a parameter,
// time.
//
//   precision --out benchmarks/results/precision-2026-11-28.md                       on a CPU, minutes
//   precision --width 512 --layers 8 --heads 8 --batch 64 --context 256 --out ...    on a GPU
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <unordered_set>
#include <vector>

#include "accelerate/accelerate.h"

namespace {

struct Shape {
  int64_t width = 96, layers = 2, heads = 4, context = 64, batch = 16, steps = 2000;
  double rate = 2e-3;
};

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(const Shape& shape) : heads(shape.heads) {
    const int64_t width = shape.width;
    before = register_module("before", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    qkv = register_module("qkv", torch::nn::Linear(width, 3 * width));
    project = register_module("project", torch::nn::Linear(width, width));
    between = register_module("between", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    widen = register_module("widen", torch::nn::Linear(width, 4 * width));
    narrow = register_module("narrow", torch::nn::Linear(4 * width, width));
  }
  at::Tensor forward(at::Tensor x) {
    const auto split = [&](const at::Tensor& part) { return part.unflatten(2, {heads, -1}).transpose(1, 2); };
    const auto parts = qkv(before(x)).chunk(3, /*dim=*/-1);
    const auto seen = at::scaled_dot_product_attention(split(parts[0]), split(parts[1]), split(parts[2]), {},
                                                       /*dropout_p=*/0.0, /*is_causal=*/true);
    x = x + project(seen.transpose(1, 2).flatten(2));
    return x + narrow(torch::gelu(widen(between(x))));
  }
  int64_t heads;
  torch::nn::LayerNorm before{nullptr}, between{nullptr};
  torch::nn::Linear qkv{nullptr}, project{nullptr}, widen{nullptr}, narrow{nullptr};
};
TORCH_MODULE(Block);

struct CharactersImpl : torch::nn::Module {
  CharactersImpl(const Shape& shape, int64_t vocabulary) {
    letters = register_module("letters", torch::nn::Embedding(vocabulary, shape.width));
    places = register_module("places", torch::nn::Embedding(shape.context, shape.width));
    for (int64_t i = 0; i < shape.layers; ++i) blocks->push_back(Block(shape));
    register_module("blocks", blocks);
    last = register_module("last", torch::nn::LayerNorm(torch::nn::LayerNormOptions({shape.width})));
    head = register_module("head", torch::nn::Linear(torch::nn::LinearOptions(shape.width, vocabulary).bias(false)));
    const torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : parameters()) {
      if (parameter.dim() == 2) parameter.normal_(0, 0.02);
    }
  }
  at::Tensor forward(const at::Tensor& tokens) {
    at::Tensor x = letters(tokens) + places->weight.narrow(0, 0, tokens.size(1));
    for (const auto& block : *blocks) x = block->as<BlockImpl>()->forward(x);
    return head(last(x));
  }
  torch::nn::Embedding letters{nullptr}, places{nullptr};
  torch::nn::ModuleList blocks;
  torch::nn::LayerNorm last{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Characters);

struct Text {
  at::Tensor training, held_out;
  int64_t vocabulary = 0, bytes = 0;
};

Text read(const std::vector<std::string>& files) {
  std::string all;
  for (const std::string& file : files) {
    std::ifstream in(file);
    std::ostringstream whole;
    whole << in.rdbuf();
    all += whole.str();
  }
  std::vector<int64_t> index(256, -1), tokens;
  Text text{.bytes = static_cast<int64_t>(all.size())};
  for (const char letter : all) {
    int64_t& known = index[static_cast<unsigned char>(letter)];
    if (known < 0) known = text.vocabulary++;
    tokens.push_back(known);
  }
  const at::Tensor whole = torch::tensor(tokens, torch::kLong);
  const int64_t most = whole.numel() * 9 / 10;
  text.training = whole.narrow(0, 0, most).clone();
  text.held_out = whole.narrow(0, most, whole.numel() - most).clone();
  return text;
}

/// {tokens, the ones after them}, from anywhere in the text.
std::pair<at::Tensor, at::Tensor> batch_of(const at::Tensor& text, const Shape& shape, at::Generator& generator) {
  const at::Tensor starts = torch::randint(text.numel() - shape.context - 1, {shape.batch, 1}, generator, torch::kLong);
  const at::Tensor places = starts + torch::arange(shape.context);
  return {text.index({places}), text.index({places + 1})};
}

struct Contestant {
  std::string name, precision;
  uint64_t order = 1;  ///< seed of the batches
};

struct Trace {
  std::vector<double> losses;
  double held_out = 0, seconds = 0;
  double bytes_a_parameter = 0;
};

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) {
  return torch::nn::functional::cross_entropy(logits.flatten(0, 1), labels.flatten());
}

/// Bytes of parameters, gradients, state and masters, by what lies in memory at the end of a step.
double bytes_a_parameter(const Characters& net, const accelerate::Optimizer& optimizer) {
  int64_t bytes = 0, elements = 0;
  torch::optim::Optimizer& inner = optimizer;
  for (const at::Tensor& parameter : net->parameters()) {
    elements += parameter.numel();
    bytes += static_cast<int64_t>(parameter.nbytes() + parameter.grad().nbytes());
    const auto& state =
        static_cast<const torch::optim::AdamWParamState&>(*inner.state().at(parameter.unsafeGetTensorImpl()));
    bytes += static_cast<int64_t>(state.exp_avg().nbytes() + state.exp_avg_sq().nbytes());
    const at::Tensor* master = optimizer.core()->master_of(parameter);
    if (master != nullptr) bytes += static_cast<int64_t>(master->nbytes());
  }
  return static_cast<double>(bytes) / static_cast<double>(elements);
}

Trace train(const Contestant& contestant, const Shape& shape, const Text& text) {
  accelerate::AcceleratorOptions options{.mixed_precision = contestant.precision};
  options.extensions.precisions.push_back(
      {"bf16_nearest", [](c10::Device) -> std::optional<std::string> { return std::nullopt; },
       accelerate::PrecisionPolicy{.output = at::kFloat, .param = at::kBFloat16, .buffer = at::kBFloat16}});
  accelerate::Accelerator accelerator(options);
  torch::manual_seed(1);
  Characters net(shape, text.vocabulary);
  torch::optim::AdamW adamw(net->parameters(), torch::optim::AdamWOptions(shape.rate).betas({0.9, 0.999}));
  auto [model, optimizer, scheduler] = accelerator.prepare(
      net, adamw, accelerate::cosine({.warmup_steps = shape.steps / 20, .total_steps = shape.steps}));
  at::Generator batches = at::detail::createCPUGenerator(contestant.order);
  Trace trace;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<at::Tensor> losses;
  for (int64_t step = 0; step < shape.steps; ++step) {
    const auto [x, y] = batch_of(text.training, shape, batches);
    const at::Tensor loss = loss_of(model(x.to(accelerator.device())), y.to(accelerator.device()));
    accelerator.backward(loss);
    accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
    optimizer.step();
    scheduler.step();
    if (step + 1 == shape.steps) trace.bytes_a_parameter = bytes_a_parameter(net, optimizer);
    optimizer.zero_grad();
    losses.push_back(loss.detach());
  }
  for (const at::Tensor& loss : losses) trace.losses.push_back(loss.item<double>());
  trace.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const torch::NoGradGuard no_grad;
  net->eval();
  at::Generator held_out = at::detail::createCPUGenerator(7);
  constexpr int kBatches = 50;
  for (int i = 0; i < kBatches; ++i) {
    const auto [x, y] = batch_of(text.held_out, shape, held_out);
    trace.held_out += loss_of(model(x.to(accelerator.device())), y.to(accelerator.device())).item<double>() / kBatches;
  }
  return trace;
}

double mean(const std::vector<double>& values, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += values[i];
  return sum / static_cast<double>(end - begin);
}

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

void write_tables(std::ostream& out, const std::vector<Contestant>& contestants, const std::vector<Trace>& traces) {
  const std::vector<double>& reference = traces.front().losses;
  const size_t steps = reference.size(), tail = std::max<size_t>(steps / 20, 1);
  out << "| precision | loss, mean of the last " << tail
      << " | difference | held-out loss | difference | mean distance to "
      << "float32 over all steps | bytes a parameter | ms a step |\n| --- | --- | --- | --- | --- | --- | --- | --- "
         "|\n";
  for (size_t i = 0; i < contestants.size(); ++i) {
    const Trace& trace = traces[i];
    const double last = mean(trace.losses, steps - tail, steps);
    double distance = 0;
    for (size_t step = 0; step < steps; ++step) distance += std::abs(trace.losses[step] - reference[step]);
    out << "| " << contestants[i].name << " | " << number(last, "%.4f") << " | "
        << number(last - mean(reference, steps - tail, steps), "%+.4f") << " | " << number(trace.held_out, "%.4f")
        << " | " << number(trace.held_out - traces.front().held_out, "%+.4f") << " | "
        << (contestants[i].order == contestants.front().order ? number(distance / static_cast<double>(steps), "%.5f")
                                                              : std::string("other batches"))
        << " | " << number(trace.bytes_a_parameter, "%.1f") << " | "
        << number(1e3 * trace.seconds / static_cast<double>(steps), "%.1f") << " |\n";
  }
  out << "\nMeans of the loss over windows of " << tail << " steps:\n\n| to step |";
  for (const Contestant& contestant : contestants) out << " " << contestant.name << " |";
  out << "\n| --- |";
  for (size_t i = 0; i < contestants.size(); ++i) out << " --- |";
  out << "\n";
  for (const size_t end : {tail, 2 * tail, 4 * tail, 8 * tail, 12 * tail, 16 * tail, steps}) {
    if (end > steps) continue;
    out << "| " << end << " |";
    for (const Trace& trace : traces) out << " " << number(mean(trace.losses, end - tail, end), "%.4f") << " |";
    out << "\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Loss traces of precisions on a text");
  Shape shape;
  std::string path;
  const std::string root = ACCELERATE_SOURCE_DIR;
  std::vector<std::string> files{root + "/docs/migration.md", root + "/docs/architecture.md",
                                 root + "/docs/launch.md",    root + "/CONTRIBUTING.md",
                                 root + "/README.md",         root + "/LICENSE"};
  app.add_option("--width", shape.width, "Of the hidden states");
  app.add_option("--layers", shape.layers);
  app.add_option("--heads", shape.heads);
  app.add_option("--context", shape.context, "Characters that the model sees");
  app.add_option("--batch", shape.batch);
  app.add_option("--steps", shape.steps)->check(CLI::Range(20, 1'000'000));
  app.add_option("--rate", shape.rate, "Learning rate after the warm-up");
  app.add_option("--text", files, "Files to learn from")->check(CLI::ExistingFile);
  app.add_option("--out", path, "Where the tables go; standard output if it is left out");
  CLI11_PARSE(app, argc, argv);

  const Text text = read(files);
  const std::vector<Contestant> contestants{{"float32", "no"},
                                            {"float32, other batches", "no", 2},
                                            {"`bf16`", "bf16"},
                                            {"`bf16_master`", "bf16_master"},
                                            {"`bf16_stochastic`", "bf16_stochastic"},
                                            {"bfloat16, rounded to nearest", "bf16_nearest"},
                                            {"`fp16`", "fp16"}};
  std::vector<Trace> traces;
  for (const Contestant& contestant : contestants) {
    traces.push_back(train(contestant, shape, text));
    std::cerr << contestant.name << ": " << traces.back().losses.back() << " after " << traces.back().seconds << " s\n";
  }
  std::ofstream file;
  if (!path.empty()) file.open(path);
  std::ostream& out = path.empty() ? std::cout : file;
  out << "A transformer of " << shape.layers << " layers, width " << shape.width << ", " << shape.heads
      << " heads, learns " << text.bytes << " bytes of text (" << text.vocabulary << " different ones) in "
      << shape.steps << " steps of " << shape.batch << " x " << shape.context << " characters: AdamW at " << shape.rate
      << ", warm-up and cosine, clip at 1. Device: " << accelerate::Accelerator().device() << ".\n\n";
  write_tables(out, contestants, traces);
  return 0;
}
