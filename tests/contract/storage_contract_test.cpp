// What every storage format promises: declared first, written in any pieces, there at commit; read in any pieces;
// damage is refused at open.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

#include "accelerate/core/error.h"
#include "tests/support/failing_disk.h"
#include "tests/support/storage.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::bytes_of;
using support::layout_of;
using support::load;
using support::read_text;
using support::same_bytes;
using support::save;
using support::TemporaryFolder;
using support::Tensors;
using support::write_text;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Storage : public ::testing::TestWithParam<StorageFormat> {
 protected:
  const StorageFormat& format() const { return GetParam(); }
  std::string file() const { return folder / ("file" + format().extension); }
  TemporaryFolder folder;
};
INSTANTIATE_TEST_SUITE_P(Formats, Storage, ::testing::ValuesIn(internal::builtin_formats()),
                         [](const auto& info) { return info.param.name; });

Tensors some_tensors() {
  return {{"layer.weight", at::arange(12, at::kFloat).view({3, 4})},
          {"layer.bias", at::arange(3, at::kDouble)},
          {"steps", at::full({}, 41, at::kLong)},
          {"mask", at::ones({5}, at::kBool)},
          {"none", at::zeros({0, 2})},
          {"low", at::arange(6, at::kBFloat16).view({2, 3})}};
}

TEST(StorageFormats, NamesAndExtensionsAreUniqueAndUsable) {
  std::set<std::string> names, extensions;
  for (const StorageFormat& format : internal::builtin_formats()) {
    EXPECT_TRUE(names.insert(format.name).second) << format.name;
    EXPECT_TRUE(extensions.insert(format.extension).second) << format.extension;
    EXPECT_EQ(format.extension.substr(0, 1), ".");
    EXPECT_NE(format.create, nullptr);
    EXPECT_NE(format.open, nullptr);
  }
  EXPECT_FALSE(names.empty());
}

TEST_P(Storage, WhatIsWrittenIsRead) {
  const Tensors tensors = some_tensors();
  save(format(), file(), tensors);
  const Tensors back = load(format(), file());
  ASSERT_EQ(back.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bytes(back.at(name), tensor)) << name;
}

TEST_P(Storage, EntriesTellNameDtypeAndShape) {
  save(format(), file(), some_tensors());
  const auto reader = format().open(file());
  const Tensors tensors = some_tensors();
  EXPECT_EQ(reader->entries().size(), tensors.size());
  std::set<std::string> names;
  for (const StorageEntry& entry : reader->entries()) {
    EXPECT_TRUE(names.insert(entry.name).second) << "names are unique";
    EXPECT_EQ(entry.dtype, tensors.at(entry.name).scalar_type());
    EXPECT_EQ(entry.shape, tensors.at(entry.name).sizes().vec());
    EXPECT_EQ(entry.bytes(), static_cast<int64_t>(tensors.at(entry.name).nbytes()));
  }
}

TEST_P(Storage, MetadataIsKept) {
  const std::map<std::string, std::string> metadata{{"a", "1"}, {"b", ""}};
  save(format(), file(), some_tensors(), metadata);
  EXPECT_EQ(format().open(file())->metadata(), metadata);
}

TEST_P(Storage, NothingAtAllCanBeStored) {
  save(format(), file(), {});
  EXPECT_THAT(format().open(file())->entries(), IsEmpty());
}

TEST_P(Storage, TheSameContentGivesTheSameBytes) {
  save(format(), file(), some_tensors(), {{"a", "1"}});
  const std::string once = read_text(file());
  save(format(), file(), some_tensors(), {{"a", "1"}});
  EXPECT_EQ(read_text(file()), once);
}

TEST_P(Storage, PiecesMayComeInAnyOrder) {
  const Tensors tensors = some_tensors();
  save(format(), file(), tensors);
  const std::string whole = read_text(file());
  std::mt19937 random(7);
  for (int round = 0; round < 10; ++round) {
    std::vector<std::pair<std::string, int64_t>> bytes;
    for (const auto& [name, tensor] : tensors) {
      for (int64_t i = 0; i < static_cast<int64_t>(tensor.nbytes()); ++i) bytes.emplace_back(name, i);
    }
    std::shuffle(bytes.begin(), bytes.end(), random);
    const auto writer = format().create(file(), layout_of(tensors));
    for (const auto& [name, offset] : bytes) {
      writer->write(name, offset, bytes_of(tensors.at(name)).subspan(static_cast<size_t>(offset), 1));
    }
    writer->commit();
    EXPECT_EQ(read_text(file()), whole);
  }
}

TEST_P(Storage, AnyRangeCanBeRead) {
  const Tensors tensors = some_tensors();
  save(format(), file(), tensors);
  const auto reader = format().open(file());
  for (const auto& [name, tensor] : tensors) {
    const std::span<const std::byte> expected = bytes_of(tensor);
    for (size_t begin = 0; begin <= expected.size(); ++begin) {
      for (size_t size = 0; begin + size <= expected.size(); ++size) {
        std::vector<std::byte> got(size);
        reader->read(name, static_cast<int64_t>(begin), got);
        EXPECT_TRUE(std::equal(got.begin(), got.end(), expected.begin() + static_cast<int64_t>(begin)))
            << name << " " << begin << " " << size;
      }
    }
  }
}

TEST_P(Storage, RangesOutsideAnEntryAndUnknownNamesAreUsageErrors) {
  const Tensors tensors = some_tensors();
  const auto writer = format().create(file(), layout_of(tensors));
  save(format(), folder / "other", tensors);
  const auto reader = format().open(folder / "other");
  std::vector<std::byte> two(2), none;
  for (const auto& [name, offset] : std::vector<std::pair<std::string, int64_t>>{{"steps", 7},
                                                                                 {"steps", 8},
                                                                                 {"steps", -1},
                                                                                 {"steps", INT64_MAX},
                                                                                 {"steps", INT64_MIN},
                                                                                 {"none", 0},
                                                                                 {"nobody", 0}}) {
    EXPECT_THROW(reader->read(name, offset, two), UsageError) << name << " " << offset;
    EXPECT_THROW(writer->write(name, offset, two), UsageError) << name << " " << offset;
  }
  reader->read("steps", 8, none);
  writer->write("steps", 8, none);
  EXPECT_THROW(reader->read("nobody", 0, none), UsageError);
}

TEST_P(Storage, TheFileAppearsAtCommitAndNotBefore) {
  const Tensors tensors = some_tensors();
  write_text(file(), "what was there before");
  {
    const auto writer = format().create(file(), layout_of(tensors));
    for (const auto& [name, tensor] : tensors) writer->write(name, 0, bytes_of(tensor));
    EXPECT_EQ(read_text(file()), "what was there before");
  }
  EXPECT_EQ(read_text(file()), "what was there before") << "a writer that is given up leaves what was there";
  EXPECT_EQ(folder.names().size(), 1U) << "and no other file";
  save(format(), file(), tensors);
  EXPECT_EQ(load(format(), file()).size(), tensors.size());
  EXPECT_EQ(folder.names().size(), 1U);
}

TEST_P(Storage, CommitBeforeTheLastByteIsAUsageError) {
  const Tensors tensors = some_tensors();
  write_text(file(), "what was there before");
  {
    const auto writer = format().create(file(), layout_of(tensors));
    bool cut = false;
    for (const auto& [name, tensor] : tensors) {
      const auto bytes = bytes_of(tensor);
      const bool last_byte_missing = !cut && !bytes.empty();
      cut |= last_byte_missing;
      writer->write(name, 0, last_byte_missing ? bytes.first(bytes.size() - 1) : bytes);
    }
    ASSERT_TRUE(cut);
    EXPECT_THROW(writer->commit(), UsageError);
  }
  EXPECT_EQ(read_text(file()), "what was there before");
}

TEST_P(Storage, TruncationAtEveryByteIsRefusedAtOpen) {
  save(format(), file(), some_tensors(), {{"a", "1"}});
  const std::string whole = read_text(file());
  for (size_t length = 0; length < whole.size(); ++length) {
    write_text(file(), whole.substr(0, length));
    EXPECT_THROW(format().open(file()), DataError) << "cut to " << length << " of " << whole.size();
  }
}

TEST_P(Storage, EveryFlippedBitIsRefusedOrLeavesAReadableFile) {
  save(format(), file(), some_tensors());
  const std::string whole = read_text(file());
  for (size_t byte = 0; byte < whole.size(); ++byte) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (byte % 8)));
    write_text(file(), damaged);
    try {
      const Tensors back = load(format(), file());
      EXPECT_LE(back.size(), some_tensors().size());
    } catch (const DataError& error) {
      EXPECT_EQ(error.text().place, file());
    }
  }
}

TEST_P(Storage, NoiseIsRefusedAtOpen) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::string noise(random() % 300, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    write_text(file(), noise);
    EXPECT_THROW(format().open(file()), DataError) << round;
  }
}

TEST_P(Storage, AFullDiskLeavesWhatWasThere) {
  const Tensors tensors = some_tensors();
  save(format(), file(), tensors);
  const std::string whole = read_text(file());
  write_text(file(), "before");
  for (size_t room = 0; room < whole.size(); room += 3) {
    const auto attempt = [&] {
      const support::FullDisk disk(room);
      save(format(), file(), tensors);
    };
    EXPECT_THROW(attempt(), DataError) << room;
    EXPECT_EQ(read_text(file()), "before") << room;
    EXPECT_EQ(folder.names().size(), 1U) << room;
  }
}

TEST_P(Storage, AMissingFileIsRefused) { EXPECT_THROW(format().open(folder / "missing"), DataError); }

TEST(StorageEntry, BytesAreCountedOrRefused) {
  EXPECT_EQ((StorageEntry{"a", at::kFloat, {}}).bytes(), 4);
  EXPECT_EQ((StorageEntry{"a", at::kDouble, {3, 5}}).bytes(), 120);
  EXPECT_EQ((StorageEntry{"a", at::kDouble, {3, 0}}).bytes(), 0);
  EXPECT_THROW((StorageEntry{"a", at::kFloat, {int64_t{1} << 61, 2}}).bytes(), DataError);
  EXPECT_THROW((StorageEntry{"a", at::kFloat, {int64_t{1} << 61}}).bytes(), DataError);
  EXPECT_EQ((StorageEntry{"a", at::kByte, {INT64_MAX}}).bytes(), INT64_MAX);
}

}  // namespace
}  // namespace accelerate
