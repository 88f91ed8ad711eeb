#include "benchmarks/train/tasks.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "examples/digits/data.h"

namespace benchmark_train {
namespace {

constexpr int64_t kBatches = 64;  // of noise in a pass
constexpr int64_t kTinyVocabulary = 96;

Samples noise(const Settings& settings, std::vector<int64_t> shape) {
  const int64_t count = kBatches * settings.batch_size;
  shape.insert(shape.begin(), count);
  const at::Tensor inputs = torch::randn(shape);  // first, then the labels: the peer draws in this order too
  return {inputs, torch::randint(0, 10, {count}, torch::kLong)};
}

Samples images_28(const Settings& settings) { return noise(settings, {784}); }
Samples images_8(const Settings& settings) { return noise(settings, {1, 8, 8}); }
Samples images_32(const Settings& settings) {
  const int64_t side = settings.tiny ? 8 : 32;
  return noise(settings, {3, side, side});
}

Samples digits_samples(const Settings&) {
  const auto [train, test] = digits::hold_out_every_fifth(digits::read(ACCELERATE_SOURCE_DIR "/data/digits.csv.gz"));
  return {train.images, train.labels};
}

at::Tensor tokens(const Settings& settings, int64_t vocabulary, int64_t length) {
  return torch::randint(0, settings.tiny ? kTinyVocabulary : vocabulary, {kBatches * settings.batch_size, length},
                        torch::kLong);
}

/// Text whose next tokens are the labels.
Samples text(const Settings& settings, int64_t vocabulary) {
  const at::Tensor drawn = tokens(settings, vocabulary, settings.length + 1);
  return {drawn.narrow(1, 0, settings.length).contiguous(), drawn.narrow(1, 1, settings.length).contiguous()};
}
Samples gpt2_text(const Settings& settings) { return text(settings, 50'257); }  // none in the padding
Samples llama_text(const Settings& settings) { return text(settings, 128'256); }

Samples sentences(const Settings& settings) {
  const at::Tensor drawn = tokens(settings, 30'522, settings.length);
  return {drawn, torch::randint(0, 2, {kBatches * settings.batch_size}, torch::kLong)};
}

AnyNet mlp_net(const Settings&, c10::Device) { return mlp(); }
AnyNet conv_net(const Settings&, c10::Device) { return conv(); }
AnyNet digits_net(const Settings&, c10::Device) { return benchmark_train::digits_net(); }

AnyNet resnet18_net(const Settings& settings, c10::Device device) {
  return resnet18(settings.tiny ? ResnetShape{.width = 8} : ResnetShape{}, device);
}

AnyNet drawn(const Settings& settings, c10::Device device, std::shared_ptr<LossNet> net) {
  draw(*net, device, static_cast<uint64_t>(settings.seed));
  return net;
}

Loss loss_of(const Settings& settings) { return settings.fused_loss ? Loss::kFused : Loss::kPlain; }

AnyNet gpt2_net(const Settings& settings, c10::Device device) {
  Gpt2Shape shape;
  if (settings.tiny) shape = {.vocabulary = kTinyVocabulary, .positions = 16, .width = 32, .layers = 2, .heads = 4};
  shape.positions = std::max(shape.positions, settings.length);
  return drawn(settings, device, gpt2(shape, device, loss_of(settings)));
}

AnyNet bert_net(const Settings& settings, c10::Device device) {
  BertShape shape;
  if (settings.tiny) shape = {.vocabulary = kTinyVocabulary, .positions = 16, .width = 32, .layers = 2, .heads = 4};
  shape.positions = std::max(shape.positions, settings.length);
  shape.dropout = settings.dropout.value_or(shape.dropout);
  return drawn(settings, device, bert(shape, device));
}

AnyNet llama_net(const Settings& settings, c10::Device device) {
  LlamaShape shape;
  if (settings.tiny) {
    shape = {.vocabulary = kTinyVocabulary, .width = 32, .inner = 64, .layers = 2, .heads = 4, .pairs = 2};
  }
  shape.positions = settings.length;
  return drawn(settings, device, llama(shape, device, loss_of(settings)));
}

const std::array kTasks = {
    Task{"mlp", {64}, {64}, 1e-3, images_28, mlp_net},
    Task{"conv", {64}, {64}, 1e-3, images_8, conv_net},
    Task{"digits", {64}, {64}, 1e-3, digits_samples, digits_net},
    Task{"resnet18", {128}, {8}, 1e-3, images_32, resnet18_net},
    Task{"bert", {16, 128}, {4, 16}, 5e-5, sentences, bert_net},
    Task{"gpt2", {16, 1024}, {4, 16}, 3e-4, gpt2_text, gpt2_net},
    Task{"llama1b", {4, 2048}, {4, 16}, 1e-4, llama_text, llama_net},
};

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const Task& task : kTasks) names.emplace_back(task.name);
  return names;
}

const Task& task_of(const std::string& name) {
  const auto found = std::find_if(kTasks.begin(), kTasks.end(), [&](const Task& task) { return task.name == name; });
  if (found == kTasks.end()) throw std::invalid_argument("unknown task: got " + name + ", expected one of --help");
  return *found;
}

}  // namespace benchmark_train
