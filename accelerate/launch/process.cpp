#include "accelerate/launch/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "accelerate/launch/program.h"

namespace accelerate::internal::launch {
namespace {

/// What exec() takes; the strings stay the owner's.
std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

/// A stream of the child: what its number is made from, or -1 to leave it.
struct Source {
  int target;
  int number;
};

/// Between fork and exec: system calls only.
[[noreturn]] void become(const char* file, char* const* arguments, char* const* environment, const Source (&streams)[3],
                         pid_t parent, int report) {
  ::setsid();
  // The parent may have ended before the kernel was told to watch it.
  bool ready = ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == parent;
  for (const Source& stream : streams)
    ready = ready && (stream.number < 0 || ::dup2(stream.number, stream.target) >= 0);
  sigset_t none;
  ::sigemptyset(&none);
  ready = ready && ::sigprocmask(SIG_SETMASK, &none, nullptr) == 0;
  if (ready) ::execve(file, arguments, environment);
  const int number = errno;
  // A report that cannot be written leaves the parent with a child that was killed.
  [[maybe_unused]] const ssize_t written = ::write(report, &number, sizeof(number));
  // Not exit(): nothing that belongs to the parent may run twice.
  for (;;) ::raise(SIGKILL);
}

/// The errno of a child that could not become the program, or 0; returns when exec() closed the pipe.
int read_report(const Descriptor& report) {
  int number = 0;
  ssize_t count = 0;
  do {
    count = ::read(report.number(), &number, sizeof(number));
  } while (count < 0 && errno == EINTR);
  return count == sizeof(number) ? number : 0;
}

Pipe pipe_for(Stream stream) { return stream == Stream::kPipe ? Pipe::make() : Pipe{}; }

Descriptor null_for(Stream stream) {
  if (stream != Stream::kNull) return {};
  Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.open()) throw_errno("Opening /dev/null", errno, "Raise the limit (ulimit -n), or make it readable");
  return null;
}

void make_nonblocking(const Descriptor& descriptor) {
  if (descriptor.open() && ::fcntl(descriptor.number(), F_SETFL, O_NONBLOCK) != 0) {
    throw_errno("Setting up a pipe", errno, "Start again");
  }
}

}  // namespace

Process Process::start(const ProcessOptions& options) {
  std::vector<std::string> variables;
  for (const auto& [name, value] : options.environment) variables.push_back(name + "=" + value);
  const std::vector<char*> arguments = pointers(options.arguments), environment = pointers(variables);
  Pipe report = Pipe::make(), out = pipe_for(options.out), error = pipe_for(options.error);
  const Descriptor nulls[] = {null_for(options.in), null_for(options.out), null_for(options.error)};
  const Source streams[] = {{0, nulls[0].number()},
                            {1, out.write.open() ? out.write.number() : nulls[1].number()},
                            {2, error.write.open() ? error.write.number() : nulls[2].number()}};
  make_nonblocking(out.read);
  make_nonblocking(error.read);
  const pid_t parent = ::getpid();
  const pid_t id = ::fork();
  if (id < 0) throw_errno("Starting a process", errno, "Start fewer, or raise the limit: ulimit -u");
  if (id == 0)
    become(options.file.c_str(), arguments.data(), environment.data(), streams, parent, report.write.number());
  Process process(id);
  process.out = std::move(out.read);
  process.error = std::move(error.read);
  report.write.close();
  if (const int number = read_report(report.read); number != 0) {
    int status = 0;
    ::waitpid(id, &status, 0);
    process.group_gone_ = true;
    throw exec_failure(options.file, number);
  }
  return process;
}

Process::Process(Process&& other) noexcept
    : out(std::move(other.out)),
      error(std::move(other.error)),
      id_(std::exchange(other.id_, -1)),
      ending_(other.ending_),
      group_gone_(other.group_gone_) {}

Process::~Process() {
  if (id_ < 0 || group_gone_) return;
  signal(SIGKILL);
  // Without waiting: a process stuck in the kernel would take this one along.
  int status = 0;
  if (!ending_) ::waitpid(id_, &status, WNOHANG);
}

void Process::signal(int number) const noexcept {
  if (!group_gone_) ::kill(-id_, number);
}

void Process::reaped(pid_t id, int status) noexcept {
  if (id == id_)
    ending_ = WIFSIGNALED(status) ? Ending{.signal = WTERMSIG(status)} : Ending{.code = WEXITSTATUS(status)};
  if (!ending_ || group_gone_) return;
  siginfo_t info;
  group_gone_ = ::waitid(P_PGID, id_, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno == ECHILD;
}

void adopt_orphans() {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
    throw_errno("Becoming the parent of orphaned processes", errno, "Linux 3.4 or later is needed");
  }
}

}  // namespace accelerate::internal::launch
