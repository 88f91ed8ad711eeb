#include "accelerate/launch/launcher.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "accelerate/launch/output.h"
#include "accelerate/launch/port.h"
#include "accelerate/launch/program.h"
#include "accelerate/launch/signals.h"

namespace accelerate::internal::launch {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kLastLines = 20;
// SIGKILL takes effect at once, unless the kernel itself is stuck in a call.
constexpr std::chrono::seconds kAfterKill{2};

/// A child and what comes out of it.
struct Rank {
  int64_t rank;
  Process process;
  LineStream out, error;
  Tail tail;
};

bool same_file(int one, int other) {
  struct stat a, b;
  return ::fstat(one, &a) == 0 && ::fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

class Launch {
 public:
  Launch(const LaunchPlan& plan, const Environment& environment, const std::string& file) : plan_(plan) {
    ranks_.reserve(plan.ranks.size());
    for (const RankPlan& one : plan.ranks) ranks_.push_back(start(one, environment, file));
  }

  LaunchResult run() {
    while (!over()) {
      wait();
      take_signals();
      move_output();
      if (deadline_ && Clock::now() >= *deadline_) press_harder();
    }
    drain();
    return std::move(result_);
  }

 private:
  /// An end of a pipe that is polled, after the signals and the two sinks.
  struct Source {
    Rank& rank;
    Descriptor& from;
  };
  static constexpr size_t kFixed = 3;
  enum class Phase { kRunning, kEnding, kKilled, kGivenUp };

  Rank start(const RankPlan& one, const Environment& environment, const std::string& file) {
    ProcessOptions options{.file = file, .arguments = plan_.program, .environment = environment.all()};
    for (const auto& [name, value] : one.variables) options.environment[name] = value;
    // Several readers of one input would each get a part of it.
    options.in = ranks_.empty() ? Stream::kInherited : Stream::kNull;
    options.out = plan_.prefix_output ? Stream::kPipe : Stream::kInherited;
    options.error = Stream::kPipe;
    const std::string prefix = plan_.prefix_output ? "[" + std::to_string(one.rank) + "] " : "";
    return Rank{one.rank, Process::start(options), LineStream(prefix), LineStream(prefix), Tail()};
  }

  bool over() const {
    if (phase_ == Phase::kGivenUp) return true;
    return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.process.group_gone(); });
  }

  /// Where standard output goes: one way for both where both are the same terminal or file, so that lines stay whole.
  Sink& out() { return one_sink_ ? error_ : out_; }

  /// Until a signal or a byte comes, somebody can take one, or the deadline has passed.
  void wait() {
    sources_.clear();
    polled_.assign(1, pollfd{signals_.descriptor(), POLLIN, 0});
    for (Sink* sink : {&out_, &error_}) {
      // A negative number is passed over.
      polled_.push_back({sink->pending() ? sink->descriptor() : -1, POLLOUT, 0});
    }
    for (Rank& rank : ranks_) {
      watch(rank, rank.process.out, out());
      watch(rank, rank.process.error, error_);
    }
    int timeout = -1;
    if (deadline_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now());
      timeout = static_cast<int>(std::max<int64_t>(left.count(), 0));
    }
    if (::poll(polled_.data(), polled_.size(), timeout) < 0) {
      if (errno != EINTR) throw_errno("Waiting for the ranks", errno, "Raise the limit: ulimit -n");
      for (pollfd& one : polled_) one.revents = 0;
    }
  }

  void watch(Rank& rank, Descriptor& from, const Sink& to) {
    if (!from.open() || to.full()) return;
    polled_.push_back({from.number(), POLLIN, 0});
    sources_.push_back({rank, from});
  }

  void move_output() {
    if (polled_[1].revents != 0) out_.write_some();
    if (polled_[2].revents != 0) error_.write_some();
    for (size_t index = 0; index < sources_.size(); ++index) {
      if (polled_[kFixed + index].revents != 0) read_once(sources_[index].rank, sources_[index].from);
    }
    // Whoever writes where nobody reads any more learns it as it would without us.
    for (Rank& rank : ranks_) {
      if (out().broken()) rank.process.out.close();
      if (error_.broken()) rank.process.error.close();
    }
  }

  /// False when there was nothing, or nothing more will come.
  bool read_once(Rank& rank, Descriptor& from) {
    const bool is_out = &from == &rank.process.out;
    LineStream& stream = is_out ? rank.out : rank.error;
    Sink& sink = is_out ? out() : error_;
    const ssize_t count = ::read(from.number(), buffer_.data(), buffer_.size());
    if (count > 0) {
      const std::string_view bytes(buffer_.data(), static_cast<size_t>(count));
      if (!is_out) rank.tail.append(bytes);
      stream.append(bytes, sink);
      return true;
    }
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    stream.finish(sink);
    from.close();
    return false;
  }

  /// What is still in the pipes when the ranks have ended; a process outside of their groups may hold the other ends.
  void drain() {
    for (Rank& rank : ranks_) {
      for (Descriptor* from : {&rank.process.out, &rank.process.error}) {
        while (from->open() && read_once(rank, *from)) continue;
        if (from->open())
          (from == &rank.process.out ? rank.out : rank.error).finish(from == &rank.process.out ? out() : error_);
        from->close();
      }
    }
    while (out_.pending() || error_.pending()) {
      wait();
      // A reader who never reads must not keep us from ending.
      while (const auto number = signals_.next()) {
        if (is_ending(*number)) return;
      }
      move_output();
    }
    if (result_.failure) {
      const Rank& failed = *std::find_if(ranks_.begin(), ranks_.end(),
                                         [&](const Rank& rank) { return rank.rank == result_.failure->rank; });
      result_.failure->last_lines = failed.tail.lines(kLastLines);
      result_.failure->address_in_use =
          failed.tail.contains("ddress already in use") || failed.tail.contains("EADDRINUSE");
    }
  }

  static bool is_ending(int number) {
    return number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT;
  }

  void take_signals() {
    while (const auto number = signals_.next()) {
      if (*number == SIGCHLD) {
        reap();
      } else if (*number == SIGTSTP) {
        signal_all(SIGSTOP);
        ::raise(SIGSTOP);
        signal_all(SIGCONT);
      } else if (is_ending(*number)) {
        if (phase_ != Phase::kRunning) {
          kill_all();
        } else {
          result_.signal = *number;
          begin_ending(*number, plan_.grace_after_signal);
        }
      } else if (*number != SIGPIPE) {
        signal_all(*number);
      }
    }
  }

  void reap() {
    int status = 0;
    for (pid_t id = 0; (id = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      for (Rank& rank : ranks_) {
        rank.process.reaped(id, status);
        if (rank.process.id() == id) ended(rank);
      }
    }
  }

  void ended(const Rank& rank) {
    if (phase_ == Phase::kKilled) result_.killed += rank.process.ending()->signal == SIGKILL;
    if (phase_ == Phase::kRunning && rank.process.ending()->failed()) {
      result_.failure = Failure{.rank = rank.rank, .process = rank.process.id(), .ending = *rank.process.ending()};
      begin_ending(SIGTERM, plan_.grace_after_failure);
    }
    const bool last = std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& one) { return one.process.ending(); });
    // What ranks leave behind may not have heeded the signal that was handed on: a shell's background jobs ignore
    // SIGINT.
    if (last && phase_ != Phase::kKilled) begin_ending(SIGTERM, plan_.grace_after_failure);
  }

  void signal_all(int number) {
    for (const Rank& rank : ranks_) rank.process.signal(number);
  }

  void begin_ending(int number, std::chrono::milliseconds grace) {
    phase_ = Phase::kEnding;
    const Clock::time_point end = Clock::now() + grace;
    deadline_ = deadline_ ? std::min(*deadline_, end) : end;
    signal_all(number);
    // A process that is stopped sees no other signal before this one.
    signal_all(SIGCONT);
  }

  void kill_all() {
    phase_ = Phase::kKilled;
    deadline_ = Clock::now() + kAfterKill;
    signal_all(SIGKILL);
  }

  void press_harder() {
    if (phase_ == Phase::kEnding) {
      kill_all();
      return;
    }
    phase_ = Phase::kGivenUp;
    deadline_.reset();
    for (const Rank& rank : ranks_) {
      if (!rank.process.group_gone()) result_.remaining.push_back(rank.rank);
    }
  }

  const LaunchPlan& plan_;
  SignalQueue signals_;
  std::vector<Rank> ranks_;
  Sink out_{STDOUT_FILENO}, error_{STDERR_FILENO};
  bool one_sink_ = same_file(STDOUT_FILENO, STDERR_FILENO);
  std::array<char, 65'536> buffer_;
  std::vector<pollfd> polled_;
  std::vector<Source> sources_;
  Phase phase_ = Phase::kRunning;
  std::optional<Clock::time_point> deadline_;
  LaunchResult result_;
};

}  // namespace

int LaunchResult::exit_code() const {
  if (signal) return 128 + *signal;
  return failure ? failure->ending.exit_code() : 0;
}

LaunchResult launch(LaunchPlan plan, const Environment& environment) {
  fill_standard_descriptors();
  const std::string file = find_program(plan.program.front(), environment);
  std::optional<PortReservation> port;
  if (plan.reserve) {
    port.emplace(*plan.reserve);
    plan.set_port(port->port());
  }
  adopt_orphans();
  return Launch(plan, environment, file).run();
}

}  // namespace accelerate::internal::launch
