// The safetensors container: 8 bytes of header length, a JSON header, tensor bytes without gaps.
// Source: https://github.com/huggingface/safetensors (format and order of the reference writer).
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "accelerate/checkpoint/storage.h"
#include "accelerate/core/error.h"
#include "accelerate/core/file.h"

namespace accelerate::internal {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors bytes are little-endian");

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr int64_t kLengthBytes = 8;
// A header is an object of objects with lists of numbers. Printing or freeing deeper nests could exhaust the stack.
constexpr int kMaxDepth = 2;

struct DtypeName {
  at::ScalarType dtype;
  std::string_view name;
};

// In the reference writer's ascending order; files list tensors by descending dtype, then by name.
constexpr std::array<DtypeName, 19> kDtypes{{{at::kBool, "BOOL"},
                                             {at::kByte, "U8"},
                                             {at::kChar, "I8"},
                                             {at::kFloat8_e5m2, "F8_E5M2"},
                                             {at::kFloat8_e4m3fn, "F8_E4M3"},
                                             {at::kFloat8_e8m0fnu, "F8_E8M0"},
                                             {at::kFloat8_e4m3fnuz, "F8_E4M3FNUZ"},
                                             {at::kFloat8_e5m2fnuz, "F8_E5M2FNUZ"},
                                             {at::kShort, "I16"},
                                             {at::kUInt16, "U16"},
                                             {at::kHalf, "F16"},
                                             {at::kBFloat16, "BF16"},
                                             {at::kInt, "I32"},
                                             {at::kUInt32, "U32"},
                                             {at::kFloat, "F32"},
                                             {at::kComplexFloat, "C64"},
                                             {at::kDouble, "F64"},
                                             {at::kLong, "I64"},
                                             {at::kUInt64, "U64"}}};

size_t rank_of(at::ScalarType dtype) {
  for (size_t i = 0; i < kDtypes.size(); ++i) {
    if (kDtypes[i].dtype == dtype) return i;
  }
  throw UsageError({.place = "safetensors",
                    .what = "The format has no name for this dtype",
                    .got = at::toString(dtype),
                    .expected = "a dense number type such as Float, BFloat16 or Long",
                    .remedy = "Convert the tensor before saving"});
}

[[noreturn]] void reject(const std::string& path, const std::string& what, const std::string& got,
                         const std::string& expected) {
  throw DataError({.place = path,
                   .what = what,
                   .got = got,
                   .expected = expected,
                   .remedy = "The file is damaged or no safetensors file; write or copy it again"});
}

/// JSON as text for a message, cut to a length that can be read.
std::string excerpt(const nlohmann::json& value) {
  constexpr size_t kLongest = 120;
  std::string text = value.dump(/*indent=*/-1, /*indent_char=*/' ', /*ensure_ascii=*/true);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

std::string text_of(const nlohmann::ordered_json& header) {
  try {
    return header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw UsageError({.place = "safetensors",
                      .what = "A name or a metadata text is not valid UTF-8",
                      .got = error.what(),
                      .expected = "UTF-8, as JSON demands",
                      .remedy = "Rename the module, parameter or buffer"});
  }
}

/// Where each entry's bytes stand, counted from the first byte after the header.
struct Placed {
  StorageEntry entry;
  int64_t begin = 0;
  int64_t end = 0;
};

const Placed& find(const std::vector<Placed>& tensors, std::string_view name, int64_t offset, size_t size) {
  for (const Placed& tensor : tensors) {
    if (tensor.entry.name != name) continue;
    const int64_t held = tensor.end - tensor.begin;
    if (offset >= 0 && offset <= held && static_cast<int64_t>(size) <= held - offset) return tensor;
    throw UsageError({.place = std::string(name),
                      .what = "The range lies outside the tensor",
                      .got = std::to_string(size) + " bytes from byte " + std::to_string(offset),
                      .expected = "a part of its " + std::to_string(held) + " bytes",
                      .remedy = "Ask for bytes that the entry has"});
  }
  throw UsageError({.place = std::string(name),
                    .what = "The file has no tensor of this name",
                    .got = "\"" + std::string(name) + "\"",
                    .expected = "one of its " + std::to_string(tensors.size()) + " entries",
                    .remedy = "Use the names of the entries"});
}

class Writer final : public StorageWriter {
 public:
  Writer(const std::string& path, StorageLayout layout) : file_(path) {
    auto& entries = layout.entries;
    std::sort(entries.begin(), entries.end(), [](const StorageEntry& a, const StorageEntry& b) {
      const size_t rank_a = rank_of(a.dtype), rank_b = rank_of(b.dtype);
      return rank_a != rank_b ? rank_a > rank_b : a.name < b.name;
    });
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!layout.metadata.empty()) header["__metadata__"] = layout.metadata;
    int64_t position = 0;
    for (StorageEntry& entry : entries) {
      const int64_t end = position + entry.bytes();
      header[entry.name] = {
          {"dtype", kDtypes[rank_of(entry.dtype)].name}, {"shape", entry.shape}, {"data_offsets", {position, end}}};
      tensors_.push_back({std::move(entry), position, end});
      position = end;
    }
    std::string text = text_of(header);
    text.resize((text.size() + 7) / 8 * 8, ' ');  // tensor bytes start 8-byte aligned
    const uint64_t length = text.size();
    file_.write_at(0, std::as_bytes(std::span(&length, 1)));
    file_.write_at(kLengthBytes, std::as_bytes(std::span(text)));
    data_ = kLengthBytes + static_cast<int64_t>(length);
  }

  void write(std::string_view name, int64_t offset, std::span<const std::byte> bytes) override {
    file_.write_at(data_ + find(tensors_, name, offset, bytes.size()).begin + offset, bytes);
    written_ += static_cast<int64_t>(bytes.size());
  }
  void commit() override {
    const int64_t declared = tensors_.empty() ? 0 : tensors_.back().end;
    if (written_ < declared) {
      throw UsageError({.place = "safetensors",
                        .what = "The file is committed before all of its bytes were written",
                        .got = std::to_string(written_) + " bytes",
                        .expected = std::to_string(declared) + " as declared",
                        .remedy = "Write every entry first"});
    }
    file_.commit();
  }

 private:
  AtomicFile file_;
  std::vector<Placed> tensors_;
  int64_t data_ = 0;
  int64_t written_ = 0;
};

class Reader final : public StorageReader {
 public:
  explicit Reader(const std::string& path) : file_(path) {
    const std::string text = read_header();
    const nlohmann::json header = parse(text);
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        read_metadata(value);
      } else {
        tensors_.push_back(read_tensor(name, value));
      }
    }
    check_coverage();
    for (const Placed& tensor : tensors_) entries_.push_back(tensor.entry);
  }

  const std::vector<StorageEntry>& entries() const override { return entries_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  void read(std::string_view name, int64_t offset, std::span<std::byte> bytes) const override {
    file_.read_at(data_ + find(tensors_, name, offset, bytes.size()).begin + offset, bytes);
  }

 private:
  std::string read_header() {
    if (file_.size() < kLengthBytes) {
      reject(file_.path(), "The file is too short for a header", std::to_string(file_.size()) + " bytes", "at least 8");
    }
    uint64_t length = 0;
    file_.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
    if (length > kMaxHeader || length > static_cast<uint64_t>(file_.size() - kLengthBytes)) {
      reject(file_.path(), "The header length cannot be true", std::to_string(length) + " bytes",
             "at most 100,000,000 and at most the rest of the file, " + std::to_string(file_.size() - kLengthBytes));
    }
    std::string text(length, '\0');
    file_.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
    data_ = kLengthBytes + static_cast<int64_t>(length);
    if (text.empty() || text.front() != '{')
      reject(file_.path(), "The header is no JSON object", "another first byte", "{");
    // The parser takes a zero byte for the end and would not look at what follows.
    if (const size_t zero = text.find('\0'); zero != std::string::npos)
      reject(file_.path(), "The header is not valid JSON", "a zero byte at " + std::to_string(zero),
             "text without any");
    return text;
  }

  nlohmann::json parse(const std::string& text) const {
    std::set<std::string> names;
    using Event = nlohmann::json::parse_event_t;
    const auto check = [&](int depth, Event event, nlohmann::json& value) {
      if (depth > kMaxDepth && (event == Event::object_start || event == Event::array_start)) {
        reject(file_.path(), "The header is nested too deeply", "a value inside " + std::to_string(depth) + " others",
               "entries of dtype, shape and data_offsets");
      }
      if (depth == 1 && event == Event::key && !names.insert(value.get<std::string>()).second) {
        reject(file_.path(), "The header names a tensor twice", "\"" + value.get<std::string>() + "\"", "unique names");
      }
      return true;
    };
    try {
      nlohmann::json header = nlohmann::json::parse(text, check);
      if (!header.is_object()) reject(file_.path(), "The header is no JSON object", header.type_name(), "an object");
      return header;
    } catch (const nlohmann::json::exception& error) {
      reject(file_.path(), "The header is not valid JSON", error.what(), "the header of a safetensors file");
    }
  }

  void read_metadata(const nlohmann::json& value) {
    if (!value.is_object()) reject(file_.path(), "The metadata is no object", value.type_name(), "texts by name");
    for (const auto& [name, text] : value.items()) {
      if (!text.is_string()) reject(file_.path(), "A metadata value is no text", "\"" + name + "\"", "a text");
      metadata_[name] = text.get<std::string>();
    }
  }

  Placed read_tensor(const std::string& name, const nlohmann::json& value) const {
    const auto bad = [&](const std::string& got, const std::string& expected) {
      reject(file_.path(), "The header entry \"" + name + "\" is wrong", got, expected);
    };
    const bool complete = value.is_object() && value.contains("dtype") && value["dtype"].is_string() &&
                          value.contains("shape") && value["shape"].is_array() && value.contains("data_offsets") &&
                          value["data_offsets"].is_array() && value["data_offsets"].size() == 2;
    if (!complete) bad(excerpt(value), "dtype, shape and two data_offsets");
    const auto dtype_name = value["dtype"].get<std::string>();
    const auto dtype =
        std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeName& d) { return d.name == dtype_name; });
    if (dtype == kDtypes.end()) bad("dtype " + dtype_name, "a dtype that LibTorch has");
    Placed placed{{name, dtype->dtype, numbers(value["shape"], bad)}, 0, 0};
    const auto offsets = numbers(value["data_offsets"], bad);
    placed.begin = offsets[0];
    placed.end = offsets[1];
    int64_t bytes = 0;
    try {
      bytes = placed.entry.bytes();
    } catch (const DataError&) {
      bad("shape " + excerpt(value["shape"]), "a shape that fits into a file");
    }
    if (placed.end < placed.begin || placed.end - placed.begin != bytes) {
      bad("data_offsets " + excerpt(value["data_offsets"]), std::to_string(bytes) + " bytes as dtype and shape say");
    }
    return placed;
  }

  template <class Bad>
  static std::vector<int64_t> numbers(const nlohmann::json& list, const Bad& bad) {
    std::vector<int64_t> out;
    for (const auto& item : list) {
      const bool fits = item.is_number_unsigned() && item.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
      if (!fits) bad(excerpt(item), "whole numbers from 0 to 2^63 - 1");
      out.push_back(item.get<int64_t>());
    }
    return out;
  }

  /// Refuses gaps, overlaps, trailing bytes and truncation.
  void check_coverage() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const Placed& a, const Placed& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    int64_t position = 0;
    for (const Placed& tensor : tensors_) {
      if (tensor.begin != position) {
        reject(file_.path(), "Tensor bytes overlap or leave a gap",
               "\"" + tensor.entry.name + "\" at " + std::to_string(tensor.begin), "it at " + std::to_string(position));
      }
      position = tensor.end;
    }
    const int64_t available = file_.size() - data_;
    if (position != available) {
      reject(file_.path(), "The file's length does not fit its header",
             std::to_string(available) + " bytes after the header", std::to_string(position));
    }
  }

  FileReader file_;
  int64_t data_ = 0;
  std::vector<Placed> tensors_;
  std::vector<StorageEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace

StorageFormat format_safetensors() {
  return {"safetensors", ".safetensors",
          [](const std::string& path, StorageLayout layout) -> std::unique_ptr<StorageWriter> {
            return std::make_unique<Writer>(path, std::move(layout));
          },
          [](const std::string& path) -> std::unique_ptr<StorageReader> { return std::make_unique<Reader>(path); }};
}

}  // namespace accelerate::internal
