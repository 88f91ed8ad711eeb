#include "examples/digits/data.h"

#include <zlib.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "accelerate/core/error.h"

namespace digits {
namespace {

constexpr int kSide = 8, kPixels = kSide * kSide, kDeepest = 16, kClasses = 10;
constexpr std::string_view kRemedy =
    "Restore it with `git checkout -- data/digits.csv.gz`, or pass --data with a file in the format of data/README.md";

/// What stands in a file that is something else must not reach the terminal as it is.
std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c < ' ' || c > '~' ? '?' : c;
  return out;
}

[[noreturn]] void fail(const std::filesystem::path& file, std::string what, std::string got, std::string expected) {
  throw accelerate::DataError({.place = "digits data " + file.string(),
                               .what = std::move(what),
                               .got = std::move(got),
                               .expected = std::move(expected),
                               .remedy = std::string(kRemedy)});
}

std::string decompress(const std::filesystem::path& file) {
  errno = 0;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> in(gzopen(file.c_str(), "rb"), gzclose);
  if (!in) {
    fail(file, "The file cannot be opened", std::error_code(errno, std::generic_category()).message(),
         "a readable file");
  }
  std::string text;
  std::array<char, 1 << 16> piece;
  int count = 0;
  while ((count = gzread(in.get(), piece.data(), piece.size())) > 0) text.append(piece.data(), count);
  int status = Z_OK;
  const std::string reason = gzerror(in.get(), &status);
  // A stream that ends early reads as a short file; only closing it tells.
  if (status == Z_OK || status == Z_STREAM_END) status = gzclose(in.release());
  if (count < 0 || status != Z_OK) {
    fail(file, "The gzip stream is damaged",
         (status == Z_BUF_ERROR ? "an end within the stream" : "\"" + reason + "\"") + " after " +
             std::to_string(text.size()) + " bytes of text",
         "a whole stream");
  }
  return text;
}

/// One line's values: 64 pixels and the label. `number` is the line's, from 1, for the error.
std::array<int, kPixels + 1> parse(std::string_view line, int64_t number, const std::filesystem::path& file) {
  const std::string where = "Line " + std::to_string(number) + " ";
  std::array<int, kPixels + 1> values;
  const char* at = line.data();
  const char* const end = at + line.size();
  for (size_t i = 0; i < values.size(); ++i) {
    const int highest = i < kPixels ? kDeepest : kClasses - 1;
    const auto [next, error] = std::from_chars(at, end, values[i]);
    if (error != std::errc() || values[i] < 0 || values[i] > highest) {
      const std::string_view rest(at, end - at);
      fail(file, where + "has a bad value in column " + std::to_string(i + 1),
           "\"" + printable(rest.substr(0, std::min<size_t>(rest.find(','), 20))) + "\"",
           "a whole number from 0 to " + std::to_string(highest));
    }
    const bool last = i + 1 == values.size();
    if (last ? next != end : (next == end || *next != ',')) {
      fail(file, where + (last ? "is too long" : "is too short"),
           (last ? "more than " : "") + std::to_string(i + 1) + " values", "64 pixels and a label");
    }
    at = next + 1;
  }
  return values;
}

}  // namespace

Samples read(const std::filesystem::path& file) {
  const std::string text = decompress(file);
  std::vector<float> pixels;
  std::vector<int64_t> labels;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const auto values = parse(rest.substr(0, end), static_cast<int64_t>(labels.size()) + 1, file);
    for (int i = 0; i < kPixels; ++i) pixels.push_back(static_cast<float>(values[i]) / kDeepest);
    labels.push_back(values[kPixels]);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (labels.empty()) fail(file, "There are no images in the file", "0 lines", "at least 1");
  const auto count = static_cast<int64_t>(labels.size());
  return {torch::tensor(pixels).view({count, 1, kSide, kSide}), torch::tensor(labels, torch::kLong)};
}

Split hold_out_every_fifth(const Samples& all) {
  const at::Tensor held_out = torch::arange(all.labels.size(0)).remainder(5) == 0;
  const auto pick = [&all](const at::Tensor& rows) {
    return Samples{all.images.index({rows}), all.labels.index({rows})};
  };
  return {.train = pick(~held_out), .test = pick(held_out)};
}

}  // namespace digits
