// Batches on their way to a GPU: nothing is lost or overwritten, the host waits for nothing, and copies run beside
// kernels. What happened when is read from a recorded trace.
#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/gpu/gpu.h"
#include "tests/support/read_all.h"
#include "tests/support/temporary_folder.h"

namespace {

using accelerate::Accelerator;
using accelerate::DataLoader;
using accelerate::DataLoaderOptions;
using accelerate::TensorDataset;

class DataPathOnGpu : public gpu::OneGpu {};

constexpr int64_t kWide = 1 << 20;  // 4 MB an example

/// Row i is i everywhere; made when it is asked for.
struct WideRows {
  int64_t count;
  int64_t width = kWide;
  int64_t size() const { return count; }
  std::tuple<at::Tensor, at::Tensor> get(int64_t index) const {
    return {at::full({width}, static_cast<double>(index), at::kFloat), at::scalar_tensor(index, at::kLong)};
  }
};

/// Some milliseconds of kernels that the host does not wait for.
class LongWork {
 public:
  explicit LongWork(c10::Device device, int64_t products = 24)
      : a_(torch::rand({4096, 4096}, device)), out_(torch::empty_like(a_)), products_(products) {
    run();
    torch::cuda::synchronize();
  }
  void run() {
    for (int64_t i = 0; i < products_; ++i) at::mm_out(out_, a_, a_);
  }

 private:
  at::Tensor a_, out_;
  int64_t products_;
};

TEST_F(DataPathOnGpu, ValuesAndKindsArrive) {
  Accelerator accelerator;
  for (const int64_t workers : {0, 3}) {
    const at::Tensor rows = torch::randn({50, 3, 5}), flags = torch::rand({50}) > 0.5, halves = rows.to(torch::kHalf);
    const DataLoaderOptions options{.batch_size = 7, .shuffle = true, .seed = 3, .num_workers = workers};
    const DataLoader given(TensorDataset(rows, flags, halves), options);
    const auto loader = accelerator.prepare(given);
    auto expected = given.begin();
    int64_t batches = 0;
    for (auto& [x, y, z] : loader) {
      const auto& [ex, ey, ez] = *expected;
      ASSERT_EQ(x.device(), accelerator.device());
      EXPECT_TRUE(torch::equal(x.cpu(), ex));
      EXPECT_TRUE(torch::equal(y.cpu(), ey));
      EXPECT_TRUE(torch::equal(z.cpu(), ez));
      ++expected;
      ++batches;
    }
    EXPECT_EQ(batches, 8);
  }
}

TEST_F(DataPathOnGpu, AHostThatRunsAheadOverwritesNothing) {
  Accelerator accelerator;
  LongWork work(accelerator.device());
  for (const int64_t workers : {0, 4}) {
    const auto loader =
        accelerator.prepare(DataLoader(WideRows{64}, {.batch_size = 4, .num_workers = workers, .prefetch_factor = {}}));
    std::vector<at::Tensor> lows, highs;
    for (auto& [rows, numbers] : loader) {
      work.run();  // what follows is queued long before the batch is used
      lows.push_back(std::get<0>((rows - numbers.view({-1, 1})).flatten().min(0)));
      highs.push_back(std::get<0>((rows - numbers.view({-1, 1})).flatten().max(0)));
    }
    EXPECT_EQ(lows.size(), 16U);
    // Every element of every row is its number: read after all of it was queued.
    EXPECT_EQ(torch::stack(lows).abs().max().item<double>(), 0) << workers << " workers";
    EXPECT_EQ(torch::stack(highs).abs().max().item<double>(), 0) << workers << " workers";
  }
}

TEST_F(DataPathOnGpu, ABatchThatIsKeptStaysAndOneThatIsDroppedIsRead) {
  Accelerator accelerator;
  LongWork work(accelerator.device());
  const auto loader = accelerator.prepare(DataLoader(WideRows{24}, {.batch_size = 1}));
  std::vector<at::Tensor> kept, sums;
  for (auto& [rows, numbers] : loader) {
    work.run();
    sums.push_back(rows.to(torch::kDouble).sum());  // queued; then the loop lets go of the batch
    if (kept.size() < 3) kept.push_back(rows);
  }
  for (int64_t i = 0; i < 24; ++i) {
    EXPECT_EQ(sums[static_cast<size_t>(i)].item<double>(), static_cast<double>(i * kWide)) << "batch " << i;
  }
  for (int64_t i = 0; i < 3; ++i) EXPECT_TRUE((kept[static_cast<size_t>(i)] == i).all().item<bool>());
}

TEST_F(DataPathOnGpu, SmallBatchesAreNotOverwrittenEither) {
  Accelerator accelerator;
  LongWork work(accelerator.device(), 4);
  constexpr int64_t kBatches = 120, kRows = 8;
  const auto loader = accelerator.prepare(DataLoader(WideRows{kBatches * kRows, 1 << 10}, {.batch_size = kRows}));
  std::vector<at::Tensor> kept, sums;
  for (auto& [rows, numbers] : loader) {
    work.run();  // the host is far ahead of what reads the batch
    sums.push_back(rows.to(torch::kDouble).sum() / rows.size(1) - numbers.sum());
    if (kept.size() < 20) kept.push_back(numbers);
  }
  ASSERT_EQ(sums.size(), static_cast<size_t>(kBatches));
  EXPECT_EQ(torch::stack(sums).abs().max().item<double>(), 0);
  // Labels that are kept are right a hundred batches later.
  for (size_t i = 0; i < kept.size(); ++i) {
    const auto first = static_cast<int64_t>(i) * kRows;
    EXPECT_TRUE(torch::equal(kept[i].cpu(), torch::arange(first, first + kRows))) << "batch " << i;
  }
}

/// Tensors of many forms, a few examples at a time.
struct Forms {
  using Batch = std::vector<at::Tensor>;
  int64_t size() const { return 30; }
  Batch get_batch(std::span<const int64_t> indices) const {
    const auto n = static_cast<int64_t>(indices.size());
    const at::Tensor base = torch::arange(n * 12).view({n, 3, 2, 2}) + indices[0];
    return {base.to(torch::kHalf).contiguous(at::MemoryFormat::ChannelsLast),
            (base > 5).view({n, 12}).t(),
            torch::empty({n, 0, 4}),
            base.select(1, 0).to(torch::kByte),
            torch::scalar_tensor(indices[0], torch::kLong),
            base.to(torch::kDouble).slice(1, 0, 3, 2),  // has gaps
            base.to(torch::kBFloat16).view({n, 12}).slice(1, 0, 7),
            torch::complex(base.to(torch::kFloat), base.to(torch::kFloat)),
            base.narrow(1, 0, 1).to(torch::kInt).expand({n, 3, 2, 2})};
  }
};

TEST_F(DataPathOnGpu, TensorsOfASmallBatchAreAsIfEachWereMovedAlone) {
  Accelerator accelerator;
  for (const int64_t workers : {0, 2}) {
    const DataLoaderOptions options{.batch_size = 4, .num_workers = workers};
    const DataLoader given(Forms{}, options);
    const auto loader = accelerator.prepare(given);
    auto expected = given.begin();
    for (auto& batch : loader) {
      ASSERT_EQ(batch.size(), (*expected).size());
      for (size_t i = 0; i < batch.size(); ++i) {
        SCOPED_TRACE("tensor " + std::to_string(i));
        const at::Tensor moved = (*expected)[i].to(accelerator.device());
        EXPECT_TRUE(torch::equal(batch[i], moved));
        EXPECT_EQ(batch[i].scalar_type(), moved.scalar_type());
        EXPECT_EQ(batch[i].strides(), moved.strides());
        EXPECT_EQ(batch[i].storage_offset(), 0);
        EXPECT_EQ(batch[i].storage().nbytes(), moved.storage().nbytes());
        EXPECT_FALSE(batch[i].is_inference());
        for (size_t k = 0; k < i; ++k) EXPECT_FALSE(batch[i].is_alias_of(batch[k])) << "as " << k;
      }
      batch[3].record_stream(c10::impl::getDeviceGuardImpl(c10::kCUDA)->getStream(accelerator.device()));
      batch[3].resize_({1000}).zero_();  // memory that grows
      EXPECT_TRUE(torch::equal(batch[0].cpu(), (*expected)[0])) << "beside one that has grown";
      ++expected;
    }
  }
}

TEST_F(DataPathOnGpu, ALabelThatIsKeptKeepsNoImages) {
  Accelerator accelerator;
  constexpr int64_t kBatches = 100, kRows = 16;
  const auto loader = accelerator.prepare(DataLoader(
      TensorDataset(torch::rand({kBatches * kRows, 1 << 10}), torch::arange(kBatches * kRows)), {.batch_size = kRows}));
  const auto allocated = [&] {
    torch::cuda::synchronize();
    const auto stats = at::accelerator::getDeviceStats(accelerator.device().index());
    return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].current;
  };
  const int64_t before = allocated();
  std::vector<at::Tensor> labels;
  for (auto& [images, numbers] : loader) labels.push_back(numbers);
  constexpr int64_t kBlock = 512;  // the least that LibTorch's allocator gives
  EXPECT_EQ(labels.size(), static_cast<size_t>(kBatches));
  EXPECT_LE(allocated() - before, kBatches * kBlock);
}

/// A step that takes a second batch by itself: the host gives the device something in its middle.
std::vector<double> losses_of_two_loaders(const accelerate::AcceleratorOptions& options,
                                          accelerate::CudaGraphReport& report) {
  Accelerator accelerator(options);
  torch::manual_seed(3);
  torch::nn::Linear net(6, 1);
  torch::optim::SGD sgd(net->parameters(), 0.01);
  const at::Tensor rows = torch::rand({400, 6});
  const auto [model, optimizer, outer, inner] =
      accelerator.prepare(net, sgd, DataLoader(TensorDataset(rows), {.batch_size = 8}),
                          DataLoader(TensorDataset(rows.flip(0)), {.batch_size = 8}));
  auto other = inner.begin();
  auto step = accelerator.step([&, &model = model, &optimizer = optimizer](const at::Tensor& x) {
    auto loss = (model(x) - model(std::get<0>(*other))).square().mean();
    accelerator.backward(loss);
    optimizer.step();
    optimizer.zero_grad();
    ++other;
    return loss;
  });
  std::vector<double> losses;
  for (auto& [x] : outer) losses.push_back(step(x).template item<double>());
  report = accelerator.cuda_graph_report();
  return losses;
}

TEST_F(DataPathOnGpu, ABatchThatIsTakenInACapturedStepIsTheRightOne) {
  accelerate::CudaGraphReport usual, captured;
  const auto expected = losses_of_two_loaders({}, usual);
  const auto losses = losses_of_two_loaders({.cuda_graph = accelerate::CudaGraph{}}, captured);
  EXPECT_EQ(losses, expected) << captured.replayed << " replayed, " << captured.fallbacks
                              << " fallbacks, the last: " << captured.last_fallback
                              << ", not captured: " << captured.not_captured.size();
}

TEST_F(DataPathOnGpu, PassesSideBySideAndBrokenOffOnes) {
  Accelerator accelerator;
  const auto loader = accelerator.prepare(DataLoader(WideRows{12, 1 << 14}, {.batch_size = 2, .num_workers = 2}));
  const auto other = accelerator.prepare(DataLoader(WideRows{12, 1 << 14}, {.batch_size = 2}));
  for (int repeat = 0; repeat < 5; ++repeat) {
    auto a = loader.begin(), b = other.begin();
    for (int64_t i = 0; i < 4; ++i, ++a, ++b) {
      const at::Tensor expected = torch::tensor({2 * i, 2 * i + 1}, torch::kLong);
      EXPECT_TRUE(torch::equal(std::get<1>(*a).cpu(), expected));
      EXPECT_TRUE(torch::equal(std::get<1>(*b).cpu(), expected));
      EXPECT_TRUE((std::get<0>(*a)[1] == 2 * i + 1).all().item<bool>());
    }
  }
}

TEST_F(DataPathOnGpu, AnotherStreamOfTheLoopIsServedToo) {
  Accelerator accelerator;
  const c10::Stream side = c10::impl::getDeviceGuardImpl(c10::kCUDA)->getStreamFromGlobalPool(accelerator.device());
  const auto loader = accelerator.prepare(DataLoader(WideRows{8}, {.batch_size = 1}));
  const c10::StreamGuard on_side(side);
  LongWork work(accelerator.device(), 4);
  int64_t number = 0;
  for (auto& [rows, numbers] : loader) {
    work.run();
    EXPECT_TRUE((rows == number++).all().item<bool>());
  }
}

TEST_F(DataPathOnGpu, PinnedMemoryIsWhereItWasAskedFor) {
  Accelerator accelerator;
  const auto stays =
      accelerator.prepare_data_loader(DataLoader(WideRows{2, 8}, {.pin_memory = true}), {.device_placement = false});
  for (auto& [rows, numbers] : stays) {
    EXPECT_TRUE(rows.is_cpu());
    EXPECT_TRUE(rows.is_pinned());
  }
  for (auto& [rows, numbers] : DataLoader(WideRows{2, 8})) EXPECT_FALSE(rows.is_pinned());
  const auto unpinned = accelerator.prepare(DataLoader(WideRows{2, 8}, {.pin_memory = false}));
  int64_t number = 0;
  for (auto& [rows, numbers] : unpinned) EXPECT_TRUE((rows == number++).all().item<bool>());
}

/// One event of a recorded trace; times in microseconds.
struct Event {
  std::string category, name;
  double begin = 0, end = 0;
  int64_t stream = -1;
};

std::vector<Event> events_of(const std::string& file) {
  std::vector<Event> events;
  const auto trace = nlohmann::json::parse(accelerate::support::read_text(file));
  for (const auto& one : trace.at("traceEvents")) {
    if (!one.contains("dur") || !one.contains("cat")) continue;
    Event event{one.at("cat"), one.at("name"), one.at("ts"), 0, -1};
    event.end = event.begin + one.at("dur").get<double>();
    if (one.contains("args") && one.at("args").contains("stream")) {
      const auto& stream = one.at("args").at("stream");
      event.stream = stream.is_number() ? stream.get<int64_t>() : std::stoll(stream.get<std::string>());
    }
    events.push_back(std::move(event));
  }
  return events;
}

std::string listed(const std::vector<Event>& events) {
  std::ostringstream out;
  for (const Event& event : events) {
    out << event.category << " " << event.name << " " << std::fixed << event.begin << " .. " << event.end << " stream "
        << event.stream << "\n";
  }
  return out.str();
}

void no_wait_and_overlap(int64_t workers) {
  const accelerate::support::TemporaryFolder folder;
  Accelerator accelerator;
  constexpr int64_t kBatches = 8;
  LongWork work(accelerator.device());
  const auto loader =
      accelerator.prepare(DataLoader(WideRows{kBatches * 4}, {.batch_size = 4, .num_workers = workers}));
  const auto pass = [&] {
    for (auto& [rows, numbers] : loader) {
      rows.add_(1);
      work.run();
    }
  };
  pass();  // memory of the host and of the device is there from now on
  torch::cuda::synchronize();
  auto profiler = accelerator.profile({.output_trace_dir = folder / "trace"});
  pass();
  torch::cuda::synchronize();  // so that the trace has all of it
  profiler.finish();

  const std::vector<Event> events = events_of(folder / "trace/profile_0.json");
  std::vector<Event> copies, kernels, waits;
  for (const Event& event : events) {
    if (event.category == "gpu_memcpy" && event.name.find("HtoD") != std::string::npos) copies.push_back(event);
    if (event.category == "kernel") kernels.push_back(event);
    const bool waiting = event.name.find("Synchronize") != std::string::npos;
    if (event.category == "cuda_runtime" && waiting) waits.push_back(event);
  }
  const auto by_time = [](const Event& a, const Event& b) { return a.begin < b.begin; };
  std::ranges::sort(copies, by_time);
  std::ranges::sort(kernels, by_time);
  std::ranges::sort(waits, by_time);
  ASSERT_GE(copies.size(), 2U * kBatches) << listed(copies);
  ASSERT_FALSE(kernels.empty());

  std::set<int64_t> copy_streams, kernel_streams;
  for (const Event& copy : copies) {
    copy_streams.insert(copy.stream);
    EXPECT_NE(copy.name.find("Pinned"), std::string::npos) << copy.name;
  }
  for (const Event& kernel : kernels) kernel_streams.insert(kernel.stream);
  for (const int64_t stream : copy_streams) EXPECT_FALSE(kernel_streams.contains(stream)) << "stream " << stream;

  // What waits before the first copy is the recorder's start, what waits after the last one this test.
  std::erase_if(
      waits, [&](const Event& wait) { return wait.begin < copies.front().begin || wait.begin > copies.back().begin; });
  EXPECT_TRUE(waits.empty()) << listed(waits);

  // While kernels ran, so did copies: of most batches, of which each has two.
  const double end_of_kernels = kernels.back().end;
  int64_t beside = 0;
  for (const Event& copy : copies) {
    const bool overlaps = std::ranges::any_of(
        kernels, [&](const Event& kernel) { return kernel.begin < copy.end && copy.begin < kernel.end; });
    if (overlaps) ++beside;
    EXPECT_LT(copy.end, end_of_kernels);
  }
  EXPECT_GE(beside, kBatches) << "copies:\n" << listed(copies) << "kernels:\n" << listed(kernels);
}

TEST_F(DataPathOnGpu, ASmallBatchIsOneCallOfTheDevice) {
  const accelerate::support::TemporaryFolder folder;
  Accelerator accelerator;
  constexpr int64_t kBatches = 20, kRows = 64;
  const auto loader = accelerator.prepare(
      DataLoader(TensorDataset(torch::rand({kBatches * kRows, 784}), torch::arange(kBatches * kRows)),
                 {.batch_size = kRows, .shuffle = true}));
  const auto pass = [&] {
    for (auto& [images, labels] : loader) static_cast<void>(labels);
  };
  pass();
  torch::cuda::synchronize();
  auto profiler = accelerator.profile({.output_trace_dir = folder / "trace"});
  pass();
  torch::cuda::synchronize();
  profiler.finish();
  std::vector<Event> copies, others;
  std::set<int64_t> streams;
  for (const Event& event : events_of(folder / "trace/profile_0.json")) {
    if (event.category != "kernel" && event.category != "gpu_memcpy") continue;
    (event.name.find("copy_all") != std::string::npos ? copies : others).push_back(event);
    streams.insert(event.stream);
  }
  EXPECT_EQ(copies.size(), static_cast<size_t>(kBatches)) << listed(copies);
  EXPECT_TRUE(others.empty()) << listed(others);
  EXPECT_EQ(streams.size(), 1U);
  double spent = 0;
  for (const Event& copy : copies) spent += copy.end - copy.begin;
  std::printf("copies: %.1f us each on the device\n", spent / static_cast<double>(copies.size()));
}

TEST_F(DataPathOnGpu, TheHostNeverWaitsAndCopiesRunBesideKernels) { no_wait_and_overlap(0); }
TEST_F(DataPathOnGpu, SoItIsWithWorkers) { no_wait_and_overlap(3); }

}  // namespace
