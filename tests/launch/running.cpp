#include "tests/launch/running.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace accelerate::internal::launch {
namespace {

// Longer than anything here takes on a busy machine, shorter than CTest's limit.
constexpr int kSilenceMs = 60'000;

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> result;
  for (const std::string& word : words) result.push_back(const_cast<char*>(word.c_str()));
  result.push_back(nullptr);
  return result;
}

int standard_input(const Start& start) {
  if (start.in != StandardInput::kText) return ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0 || ::write(ends[1], start.text.data(), start.text.size()) < 0) {
    throw std::runtime_error("no pipe for standard input");
  }
  ::close(ends[1]);
  return ends[0];
}

}  // namespace

Running::Running(const std::vector<std::string>& arguments, const Start& start) {
  std::vector<std::string> words{ACCELERATE_CPP}, variables{"PATH=/usr/local/bin:/usr/bin:/bin"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  for (const auto& [name, value] : start.environment) {
    if (name == "PATH") variables.clear();
    variables.push_back(name + "=" + value);
  }
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("no pipes");
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);
  const int in = standard_input(start);
  id_ = ::fork();
  if (id_ == 0) {
    ::dup2(out[1], 1);
    ::dup2(start.one_output ? out[1] : err[1], 2);
    if (start.in == StandardInput::kClosed) {
      ::close(0);
    } else {
      ::dup2(in, 0);
    }
    // What CTest or a shell left open is not taken for a leak of ours.
    ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(125);
  }
  ::close(in);
  ::close(out[1]);
  ::close(err[1]);
  out_end_ = out[0];
  err_end_ = err[0];
}

Running::~Running() {
  if (id_ > 0) {
    ::kill(id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }
  close_out();
  if (err_end_ >= 0) ::close(err_end_);
}

void Running::close_out() {
  if (out_end_ >= 0) ::close(out_end_);
  out_end_ = -1;
}

void Running::signal(int number) const { ::kill(id_, number); }

bool Running::read_some() {
  if (out_end_ < 0 && err_end_ < 0) return false;
  pollfd ends[] = {{out_end_, POLLIN, 0}, {err_end_, POLLIN, 0}};
  if (::poll(ends, 2, kSilenceMs) <= 0) {
    ADD_FAILURE() << "somebody holds the pipes and writes nothing; so far:\n" << out_ << err_;
    return false;
  }
  const auto take = [](const pollfd& ready, int& end, std::string& text) {
    if (ready.revents == 0) return;
    char bytes[65'536];
    const ssize_t size = ::read(end, bytes, sizeof(bytes));
    if (size > 0) {
      text.append(bytes, static_cast<size_t>(size));
    } else {
      ::close(end);
      end = -1;
    }
  };
  take(ends[0], out_end_, out_);
  take(ends[1], err_end_, err_);
  return true;
}

void Running::wait_for(const std::string& text, int times) {
  while (count(out_, text) < times) {
    if (!read_some()) {
      ADD_FAILURE() << "standard output never had " << times << " times " << text << ":\n" << out_ << err_;
      return;
    }
  }
}

Outcome Running::finish() {
  while (read_some()) continue;
  int status = 0;
  ::waitpid(id_, &status, 0);
  id_ = -1;
  const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return {.exit_code = code, .out = out_, .err = err_};
}

Outcome run(const std::vector<std::string>& arguments, const Start& start) {
  return Running(arguments, start).finish();
}

std::vector<std::string> shells(int processes, const std::string& script, std::vector<std::string> options) {
  std::vector<std::string> words{"launch", "--num-processes", std::to_string(processes)};
  words.insert(words.end(), options.begin(), options.end());
  words.insert(words.end(), {"/bin/sh", "-c", script});
  return words;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

std::vector<std::string> sorted_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

Folder::Folder() {
  std::string pattern = std::filesystem::temp_directory_path() / "launch_test_XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = pattern;
}

Folder::~Folder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string Folder::file(const std::string& name, const std::string& content, mode_t mode) const {
  const std::string path = path_ + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  ::chmod(path.c_str(), mode);
  return path;
}

}  // namespace accelerate::internal::launch
