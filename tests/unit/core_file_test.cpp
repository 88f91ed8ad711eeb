#include "accelerate/core/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string>

#include "tests/support/failing_disk.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::FullDisk;
using support::OrdinaryUser;
using support::read_text;
using support::TemporaryFolder;
using support::ThrowsError;
using support::write_text;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

void write_whole(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write_at(0, bytes(text));
  file.commit();
}

std::string range_of(const FileReader& reader, int64_t offset, size_t size) {
  std::string text(size, '?');
  reader.read_at(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

TEST(AtomicFile, AppearsAtCommitAndNotBefore) {
  const TemporaryFolder folder;
  AtomicFile file(folder / "a");
  file.write_at(0, bytes("text"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  file.commit();
  EXPECT_EQ(read_text(folder / "a"), "text");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, WithoutCommitWhatWasThereStaysAndNothingIsAdded) {
  const TemporaryFolder folder;
  write_text(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write_at(0, bytes("new and longer"));
    EXPECT_EQ(read_text(folder / "a"), "old");
  }
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, AnExceptionBeforeCommitLeavesNothing) {
  const TemporaryFolder folder;
  const auto fail_halfway = [&] {
    AtomicFile file(folder / "a");
    file.write_at(0, bytes("half"));
    throw std::runtime_error("the other half is missing");
  };
  EXPECT_THROW(fail_halfway(), std::runtime_error);
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(AtomicFile, CommitReplacesALongerFileWhole) {
  const TemporaryFolder folder;
  write_text(folder / "a", "much longer than the new one");
  write_whole(folder / "a", "short");
  EXPECT_EQ(read_text(folder / "a"), "short");
}

TEST(AtomicFile, MissingFoldersAreMade) {
  const TemporaryFolder folder;
  write_whole(folder / "one/two/three/a", "text");
  EXPECT_EQ(read_text(folder / "one/two/three/a"), "text");
}

TEST(AtomicFile, ANameWithoutFolderMeansTheWorkingFolder) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_whole("a", "text");
  std::filesystem::current_path(before);
  EXPECT_EQ(read_text(folder / "a"), "text");
}

TEST(AtomicFile, TwoWritersOfOnePathDoNotMixAndTheLastCommitWins) {
  const TemporaryFolder folder;
  AtomicFile first(folder / "a");
  AtomicFile second(folder / "a");
  first.write_at(0, bytes("first"));
  second.write_at(0, bytes("second"));
  second.commit();
  EXPECT_EQ(read_text(folder / "a"), "second");
  first.commit();
  EXPECT_EQ(read_text(folder / "a"), "first");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, ATemporaryFileOfAnEarlierCrashIsNotInTheWay) {
  const TemporaryFolder folder;
  const std::string left_over = "a.tmp-" + std::to_string(::getpid()) + "-0";
  write_text(folder / left_over, "of an earlier process with our number");
  write_whole(folder / "a", "text");
  EXPECT_EQ(read_text(folder / "a"), "text");
  EXPECT_EQ(read_text(folder / left_over), "of an earlier process with our number");
}

TEST(AtomicFile, PermissionsFollowTheMaskAsForAnyFile) {
  const TemporaryFolder folder;
  const mode_t mask = ::umask(027);
  write_whole(folder / "a", "text");
  ::umask(mask);
  struct stat status {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640U);
}

// Any pieces in any order that cover a text make that text.
RC_GTEST_PROP(AtomicFileProperty, PiecesInAnyOrderMakeTheFile, (std::string text)) {
  const TemporaryFolder folder;
  auto cuts = *rc::gen::container<std::vector<size_t>>(rc::gen::inRange<size_t>(0, text.size() + 1));
  cuts.push_back(0);
  cuts.push_back(text.size());
  std::sort(cuts.begin(), cuts.end());
  std::vector<std::pair<size_t, size_t>> pieces;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) pieces.emplace_back(cuts[i], cuts[i + 1]);
  AtomicFile file(folder / "a");
  while (!pieces.empty()) {
    const auto next = pieces.begin() + *rc::gen::inRange<int64_t>(0, static_cast<int64_t>(pieces.size()));
    file.write_at(static_cast<int64_t>(next->first), bytes(text).subspan(next->first, next->second - next->first));
    pieces.erase(next);
  }
  file.commit();
  RC_ASSERT(read_text(folder / "a") == text);
  const FileReader reader(folder / "a");
  RC_ASSERT(reader.size() == static_cast<int64_t>(text.size()));
  const auto begin = *rc::gen::inRange<size_t>(0, text.size() + 1);
  const auto size = *rc::gen::inRange<size_t>(0, text.size() - begin + 1);
  RC_ASSERT(range_of(reader, static_cast<int64_t>(begin), size) == text.substr(begin, size));
}

TEST(AtomicFileErrors, AFileInPlaceOfTheFolder) {
  const TemporaryFolder folder;
  write_text(folder / "file", "text");
  const std::string path = folder / "file/a";
  EXPECT_THAT([&] { AtomicFile file(path); }, ThrowsError<DataError>({.place = path,
                                                                      .what = "The folder cannot be created",
                                                                      .got = "Not a directory",
                                                                      .expected = "folder",
                                                                      .remedy = "Choose a folder"}));
  EXPECT_EQ(read_text(folder / "file"), "text");
}

TEST(AtomicFileErrors, AFolderInPlaceOfTheFile) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  std::filesystem::create_directories(path + "/inside");
  EXPECT_THAT([&] { write_whole(path, "text"); },
              ThrowsError<DataError>({.place = path,
                                      .what = "cannot be renamed",
                                      .got = std::strerror(EISDIR),
                                      .expected = "write",
                                      .remedy = "What was there before is unchanged"}));
  EXPECT_TRUE(std::filesystem::is_directory(path + "/inside"));
  EXPECT_THAT(folder.names(), ElementsAre("a")) << "the temporary file was left behind";
}

TEST(AtomicFileErrors, AFolderThatMayNotBeWrittenTo) {
  const TemporaryFolder folder;
  write_text(folder / "a", "old");
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  const std::string path = folder / "a";
  {
    const OrdinaryUser user;
    EXPECT_THAT([&] { AtomicFile file(path); }, ThrowsError<DataError>({.place = path,
                                                                        .what = "cannot be created",
                                                                        .got = std::strerror(EACCES),
                                                                        .expected = "write",
                                                                        .remedy = "choose another folder"}));
    const std::string below = folder / "new/a";
    EXPECT_THAT([&] { AtomicFile file(below); }, ThrowsError<DataError>({.place = below,
                                                                         .what = "The folder cannot be created",
                                                                         .got = std::strerror(EACCES),
                                                                         .expected = "folder",
                                                                         .remedy = "Choose a folder"}));
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFileErrors, AFullDiskAtAnyByteKeepsWhatWasThere) {
  const TemporaryFolder folder;
  const std::string text = "0123456789abcdef";
  const std::string path = folder / "a";
  for (size_t room = 0; room <= text.size(); ++room) {
    write_text(path, "old");
    const auto save = [&] {
      const FullDisk disk(room);
      write_whole(path, text);
    };
    if (room == text.size()) {
      save();
      EXPECT_EQ(read_text(path), text);
    } else {
      EXPECT_THAT(save, ThrowsError<DataError>({.place = path,
                                                .what = "cannot be written",
                                                .got = std::strerror(EFBIG),
                                                .expected = "write",
                                                .remedy = "free some space"}))
          << room;
      EXPECT_EQ(read_text(path), "old") << room;
    }
    EXPECT_THAT(folder.names(), ElementsAre("a")) << room;
  }
}

TEST(FileReader, ReadsAnyRangeAndKnowsItsPathAndSize) {
  const TemporaryFolder folder;
  write_text(folder / "a", "0123456789");
  const FileReader reader(folder / "a");
  EXPECT_EQ(reader.path(), folder / "a");
  EXPECT_EQ(reader.size(), 10);
  EXPECT_EQ(range_of(reader, 0, 10), "0123456789");
  EXPECT_EQ(range_of(reader, 3, 4), "3456");
  EXPECT_EQ(range_of(reader, 10, 0), "");
}

TEST(FileReader, KeepsReadingTheFileItOpenedAfterItWasReplaced) {
  const TemporaryFolder folder;
  write_text(folder / "a", "old text");
  const FileReader reader(folder / "a");
  write_whole(folder / "a", "new");
  EXPECT_EQ(range_of(reader, 0, 8), "old text");
}

TEST(FileReaderErrors, AMissingFile) {
  const TemporaryFolder folder;
  const std::string path = folder / "missing";
  EXPECT_THAT([&] { FileReader reader(path); }, ThrowsError<DataError>({.place = path,
                                                                        .what = "cannot be read",
                                                                        .got = std::strerror(ENOENT),
                                                                        .expected = "a readable file",
                                                                        .remedy = "Check the path"}));
}

TEST(FileReaderErrors, AFolder) {
  const TemporaryFolder folder;
  const std::string path = folder.path().string();
  EXPECT_THAT([&] { FileReader reader(path); }, ThrowsError<DataError>({.place = path,
                                                                        .what = "cannot be read",
                                                                        .got = "a folder",
                                                                        .expected = "a readable file",
                                                                        .remedy = "Check the path"}));
}

TEST(FileReaderErrors, ADevice) {
  EXPECT_THAT([&] { FileReader reader("/dev/null"); }, ThrowsError<DataError>({.place = "/dev/null",
                                                                               .what = "cannot be read",
                                                                               .got = "no regular file",
                                                                               .expected = "a readable file",
                                                                               .remedy = "Check the path"}));
}

TEST(FileReaderErrors, APipeIsRefusedInsteadOfWaitedFor) {
  const TemporaryFolder folder;
  const std::string path = folder / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT([&] { FileReader reader(path); }, ThrowsError<DataError>({.place = path,
                                                                        .what = "cannot be read",
                                                                        .got = "no regular file",
                                                                        .expected = "a readable file",
                                                                        .remedy = "Check the path"}));
}

TEST(FileReaderErrors, AFileThatMayNotBeRead) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_text(path, "secret");
  std::filesystem::permissions(path, std::filesystem::perms(0));
  const OrdinaryUser user;
  EXPECT_THAT([&] { FileReader reader(path); }, ThrowsError<DataError>({.place = path,
                                                                        .what = "cannot be read",
                                                                        .got = std::strerror(EACCES),
                                                                        .expected = "a readable file",
                                                                        .remedy = "Check the path"}));
}

TEST(FileReaderErrors, AFileThatShrankUnderIt) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_text(path, "0123456789");
  const FileReader reader(path);
  std::filesystem::resize_file(path, 4);
  EXPECT_EQ(range_of(reader, 0, 4), "0123");
  EXPECT_THAT([&] { range_of(reader, 2, 8); }, ThrowsError<DataError>({.place = path,
                                                                       .what = "ends too early",
                                                                       .got = "end of file at byte 4",
                                                                       .expected = "6 more bytes",
                                                                       .remedy = "copy the file again"}));
}

TEST(FileReader, ReadersAndWritersGiveTheirDescriptorsBack) {
  const TemporaryFolder folder;
  const auto open_descriptors = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  const auto before = open_descriptors();
  for (int i = 0; i < 5; ++i) {
    write_whole(folder / "a", "text");
    const FileReader reader(folder / "a");
    { AtomicFile abandoned(folder / "b"); }
    EXPECT_THROW(FileReader(folder.path().string()), DataError);
    EXPECT_THROW(AtomicFile(folder / "a/b"), DataError);
  }
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace accelerate
