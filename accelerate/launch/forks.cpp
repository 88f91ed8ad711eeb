#include "accelerate/launch/forks.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "accelerate/core/env.h"
#include "accelerate/core/error.h"

namespace accelerate::internal::launch {
namespace {

using Clock = std::chrono::steady_clock;

// First byte of a report; the text of the exception follows.
constexpr char kReturned = 'r', kThrew = 't', kLostOthers = 'l';

void flush_streams() {
  std::fflush(nullptr);
  std::cout.flush();
  std::clog.flush();
}

/// OpenMP read the number of threads when this process began; a copy has to be told.
void limit_threads(const std::map<std::string, std::string>& variables) {
  const auto wanted = variables.find("OMP_NUM_THREADS");
  const auto most = reinterpret_cast<int (*)()>(::dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  const auto set = reinterpret_cast<void (*)(int)>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (wanted == variables.end() || most == nullptr || set == nullptr) return;
  set(std::min(most(), std::stoi(wanted->second)));
}

std::string run(const std::function<void()>& function) {
  try {
    function();
    return {kReturned};
  } catch (const CommError& error) {
    return kLostOthers + std::string(error.what());
  } catch (const std::exception& error) {
    return kThrew + std::string(error.what());
  } catch (...) {
    return kThrew + std::string("an exception that is no std::exception");
  }
}

void send(const Descriptor& to, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(to.number(), bytes.data(), bytes.size());
    if (count < 0 && errno != EINTR) return;  // nobody listens any more
    if (count > 0) bytes.remove_prefix(static_cast<size_t>(count));
  }
}

/// The copy's whole life. It ends without what belongs to the process it is a copy of: no destructor of a static object
/// and no handler of atexit() may run twice.
[[noreturn]] void live(pid_t parent, const Descriptor& report, const std::map<std::string, std::string>& variables,
                       Stream in, const std::function<void()>& function) {
  // The parent may have ended before the kernel was told to watch it.
  const bool watched = ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == parent;
  std::string text = kThrew + std::string("the process that started it has ended");
  if (watched) {
    if (in == Stream::kNull) {
      const Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
      if (null.open()) ::dup2(null.number(), STDIN_FILENO);
    }
    set_variables(variables);
    limit_threads(variables);
    text = run(function);
  }
  send(report, text);
  flush_streams();
  ::_exit(text.front() == kReturned ? 0 : 1);
}

}  // namespace

Forks::~Forks() {
  signal_all(SIGKILL);
  for (Fork& fork : forks_) {
    if (!fork.ended) ::waitpid(fork.id, nullptr, 0);
  }
}

void Forks::start(const std::map<std::string, std::string>& variables, Stream in,
                  const std::function<void()>& function) {
  Pipe pipe = Pipe::make();
  forks_.reserve(forks_.size() + 1);
  // What waits in a buffer would be written by every copy.
  flush_streams();
  const pid_t parent = ::getpid();
  const pid_t id = ::fork();
  if (id < 0) throw_errno("Starting a process", errno, "Start fewer, or raise the limit: ulimit -u");
  if (id == 0) live(parent, pipe.write, variables, in, function);
  forks_.push_back({.id = id, .report = std::move(pipe.read)});
}

Forks::Result Forks::wait(const Limits& limits) {
  Result result;
  const auto begin = Clock::now();
  std::optional<Clock::time_point> press;  // when those that are left are pressed harder
  int next = SIGTERM;
  const auto count = [&] { return std::ranges::count_if(forks_, [](const Fork& fork) { return !fork.ended; }); };
  while (count() > 0) {
    read_reports(std::chrono::milliseconds(20));
    for (size_t i = 0; i < forks_.size(); ++i) {
      if (forks_[i].ended) continue;
      reap(forks_[i]);
      if (forks_[i].ended && forks_[i].outcome.failed()) result.order.push_back(i);
    }
    const auto now = Clock::now();
    if (!press && !result.order.empty()) press = now + limits.grace;
    if (!press && limits.all && now >= begin + *limits.all && count() > 0) {
      result.timed_out = true;
      press = now;
    }
    if (!press || now < *press) continue;
    for (Fork& fork : forks_) fork.outcome.by_us = fork.outcome.by_us || !fork.ended;
    signal_all(std::exchange(next, SIGKILL));
    press = now + limits.grace;
  }
  for (Fork& fork : forks_) result.outcomes.push_back(std::move(fork.outcome));
  forks_.clear();
  return result;
}

bool Forks::read_reports(std::chrono::milliseconds wait) {
  std::vector<pollfd> polled;
  for (const Fork& fork : forks_) polled.push_back({fork.report.number(), POLLIN, 0});
  if (::poll(polled.data(), polled.size(), static_cast<int>(wait.count())) <= 0) return false;
  bool came = false;
  for (size_t i = 0; i < forks_.size(); ++i) {
    if (polled[i].revents == 0) continue;
    char bytes[4096];
    const ssize_t count = ::read(polled[i].fd, bytes, sizeof bytes);
    if (count > 0) {
      forks_[i].text.append(bytes, static_cast<size_t>(count));
      came = true;
    } else if (count == 0) {
      forks_[i].report.close();
    }
  }
  return came;
}

void Forks::reap(Fork& fork) {
  int status = 0;
  const pid_t id = ::waitpid(fork.id, &status, WNOHANG);
  if (id == 0 || (id < 0 && errno == EINTR)) return;
  fork.ended = true;
  while (read_reports(std::chrono::milliseconds(0))) continue;
  // Where the program ignores SIGCHLD nothing is left to be learned but the report.
  if (id > 0) {
    fork.outcome.ending =
        WIFSIGNALED(status) ? Ending{.signal = WTERMSIG(status)} : Ending{.code = WEXITSTATUS(status)};
  } else if (fork.text.empty()) {
    fork.outcome.ending = {.code = 1};
  }
  if (fork.text.empty() || fork.text.front() == kReturned) return;
  fork.outcome.exception = fork.text.substr(1);
  fork.outcome.of_others = fork.text.front() == kLostOthers;
}

void Forks::signal_all(int number) {
  for (const Fork& fork : forks_) {
    if (!fork.ended) ::kill(fork.id, number);
  }
}

}  // namespace accelerate::internal::launch
