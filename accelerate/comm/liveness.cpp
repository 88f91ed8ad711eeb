#include "accelerate/comm/liveness.h"

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <condition_variable>
#include <cstdio>
#include <map>
#include <set>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

/// Added to a rank's heartbeats when it says goodbye.
constexpr int64_t kGoodbye = int64_t{1} << 40;

/// How long the end of a group waits for threads that a store or a transport may hold for ever.
constexpr std::chrono::seconds kFarewell{3};

std::string seconds(std::chrono::duration<double> duration) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", duration.count());
  return text;
}

std::string key(const char* kind, int64_t index) { return std::string(kind) + "/" + std::to_string(index); }

CommError error_of(const Liveness::Place& place, const Operation& operation, const std::string& what) {
  return CommError({.place = operation.name,
                    .what = what,
                    .got = "rank " + std::to_string(place.rank) + " waiting for " + seconds(operation.elapsed()),
                    .expected = "all " + std::to_string(place.size) + " ranks to come",
                    .remedy = "Look for the cause in that rank's own output, then start all of them again"});
}

}  // namespace

struct Liveness::State : std::enable_shared_from_this<State> {
  State(c10::intrusive_ptr<c10d::Store> s, Place p, Log l, LivenessRules r)
      : store(std::move(s)), place(p), log(std::move(l)), rules(r) {}

  const c10::intrusive_ptr<c10d::Store> store;  ///< the talking thread's alone
  const Place place;
  const Log log;
  const LivenessRules rules;
  Operations operations;

  mutable std::mutex mutex;
  mutable std::condition_variable changed;
  bool stopping = false, talking = true, watching = true, sweeping = false, acting = false, gave_up = false;
  std::optional<std::string> farewell;
  std::optional<std::string> lost;
  std::set<int> left;          ///< ranks that said goodbye
  std::string first_to_leave;  ///< "Rank 1 has left: ...": those after it may have left because of it
  Clock::time_point first_left;
  Clock::time_point contact = Clock::now();
  std::vector<std::function<void()>> on_lost;
  std::thread talker, watcher, sweeper;

  void declare_lost(const std::string& text) {
    std::vector<std::function<void()>> actions;
    {
      const std::lock_guard lock(mutex);
      if (lost || stopping) return;
      lost = text;
      actions = on_lost;
      acting = !actions.empty();
    }
    changed.notify_all();
    if (actions.empty()) return;
    // A transport may take for ever to abort, and the clock has to be watched meanwhile.
    std::thread([self = shared_from_this(), actions = std::move(actions)] {
      pthread_setname_np(pthread_self(), "accelerate-lost");
      for (const auto& action : actions) {
        try {
          action();
        } catch (const std::exception& error) {
          self->log.warning(std::string("a transport did not abort: ") + error.what());
        }
      }
      {
        const std::lock_guard lock(self->mutex);
        self->acting = false;
      }
      self->changed.notify_all();
    }).detach();
  }

  // --- the talking thread ---

  int watched = 0;  ///< the next rank that has not left
  int64_t beats = -1;
  Clock::time_point last_beat = Clock::now();
  int64_t heard_lost = 0, heard_left = 0;
  std::string told;

  void watch_next() {
    do watched = (watched + 1) % place.size;
    while (watched != place.rank && left.contains(watched));
    beats = -1;
    last_beat = Clock::now();
  }

  void exchange() {
    store->add(key("beat", place.rank), 1);
    if (std::string text = whereabouts(); text != told) {
      store->set(key("at", place.rank), text);
      told = std::move(text);
    }
    // A rank that gives up tells why and leaves: whoever hears that it left has to have heard why.
    const int64_t left_by_now = store->add("left", 0);
    for (const int64_t count = store->add("lost", 0); heard_lost < count; ++heard_lost) {
      declare_lost(store->get_to_str(key("lost", heard_lost + 1)));
    }
    for (; heard_left < left_by_now; ++heard_left) {
      const std::string text = store->get_to_str(key("left", heard_left + 1));
      const std::lock_guard lock(mutex);
      const int rank = std::stoi(text);
      const std::string why = text.substr(text.find(' ') + 1);
      if (left.empty()) {
        first_left = Clock::now();
        first_to_leave = "Rank " + std::to_string(rank) + " has left: " + why;
      }
      left.insert(rank);
    }
    if (watched != place.rank && left.contains(watched)) watch_next();
    if (watched != place.rank) {
      const int64_t now = store->add(key("beat", watched), 0);
      if (now != beats) {
        beats = now;
        last_beat = Clock::now();
      } else if (Clock::now() - last_beat > rules.silence) {
        tell_lost("Rank " + std::to_string(watched) + " is lost: no sign of life for " +
                  seconds(Clock::now() - last_beat));
        watch_next();
      }
    }
  }

  void tell_lost(const std::string& text) { store->set(key("lost", store->add("lost", 1)), text); }

  /// What this rank is doing: the number of turns it has begun, and a line "turn name" for each under way.
  std::string whereabouts() {
    std::string text = std::to_string(operations.turns()) + "\n";
    operations.for_each([&](const Operation& operation) {
      if (operation.turn > 0) text += std::to_string(operation.turn) + " " + operation.name + "\n";
    });
    return text;
  }
  struct Whereabouts {
    uint64_t turns = 0;
    std::map<uint64_t, std::string> under_way;
  };
  Whereabouts whereabouts_of(int rank) {
    Whereabouts found;
    if (!store->check({key("at", rank)})) return found;
    std::istringstream text(store->get_to_str(key("at", rank)));
    std::string line;
    if (std::getline(text, line)) found.turns = std::stoull(line);
    while (std::getline(text, line)) found.under_way[std::stoull(line)] = line.substr(line.find(' ') + 1);
    return found;
  }

  /// The ranks that have not come to `operation`: "rank 1", "ranks 1, 2"; empty if all have.
  std::string missing_in(const Operation& operation) {
    std::string ranks;
    int count = 0;
    for (int rank = 0; rank < place.size; ++rank) {
      if (rank == place.rank || whereabouts_of(rank).turns >= operation.turn) continue;
      ranks += (count++ == 0 ? "" : ", ") + std::to_string(rank);
    }
    return ranks.empty() ? ranks : (count == 1 ? "rank " : "ranks ") + ranks;
  }

  /// What the ranks are in that should be in `operation`; empty if nobody is in another one.
  std::string others_in(const Operation& operation) {
    std::string text;
    bool differ = false;
    for (int rank = 0; rank < place.size; ++rank) {
      std::string name = operation.name;
      if (rank != place.rank) {
        const auto under_way = whereabouts_of(rank).under_way;
        const auto found = under_way.find(operation.turn);
        if (found == under_way.end()) continue;
        name = found->second;
      }
      differ |= name != operation.name;
      text += (text.empty() ? "rank " : ", rank ") + std::to_string(rank) + " " + name;
    }
    return differ ? text : "";
  }

  /// Looks at operations that take long: logs who is slow, and tells all ranks why one cannot end.
  void look_at_slow() {
    std::optional<Operation> slow, late, stuck;
    operations.for_each([&](Operation& operation) {
      if (operation.turn == 0) return;
      if (!slow && !operation.logged && operation.elapsed() > rules.slow) {
        operation.logged = true;
        slow = operation;
      }
      if (!late && operation.timed_out) {
        operation.timed_out = false;
        late = operation;
      }
      if (!stuck && operation.elapsed() > rules.stuck && Clock::now() > operation.look_at) {
        operation.look_at = Clock::now() + rules.silence;
        stuck = operation;
      }
    });
    if (slow) {
      const std::string missing = missing_in(*slow);
      log.warning("waiting for " + seconds(slow->elapsed()) + " in " + slow->name +
                  "; not there yet: " + (missing.empty() ? "none, all are in it" : missing));
    }
    if (late) {
      std::string missing = missing_in(*late);
      if (!missing.empty()) {
        missing.front() = 'R';
        tell_lost(missing + " did not come to " + late->name + " within the timeout");
      }
    }
    if (stuck) {
      const std::string others = others_in(*stuck);
      if (!others.empty()) {
        tell_lost("The ranks call different things, " + others + " (number " + std::to_string(stuck->turn) +
                  " of each)");
      }
    }
  }

  // --- the watching thread ---

  /// Why `operation` can no longer end, or nothing.
  std::optional<std::string> verdict(const Operation& operation) const {
    const std::lock_guard lock(mutex);
    if (lost) return lost;
    const bool alone = operation.turn > 0 && !left.empty() && !farewell;
    // The one that left may have been the last to come, and have been through with it first.
    const bool had_time = operation.elapsed() > rules.stuck && Clock::now() - first_left > rules.stuck;
    if (alone && had_time) return first_to_leave;
    if (operation.failure && Clock::now() - operation.failed_at > patience()) return operation.failure;
    return std::nullopt;
  }
  /// Why a device will wait for ever, or nothing. Its host waits with it and hears of nothing until transports abort.
  std::optional<std::string> device_stuck() {
    std::optional<std::string> why;
    operations.for_each([&](const Operation& operation) {
      if (operation.work && !why) why = verdict(operation);
    });
    return why;
  }
  /// Long enough for somebody to notice a silent rank and for everybody to hear of it, on a busy machine too.
  Clock::duration patience() const { return 2 * rules.silence; }
};

Liveness::Liveness(c10::intrusive_ptr<c10d::Store> store, Place place, Log log, LivenessRules rules)
    : state_(std::make_shared<State>(std::move(store), place, std::move(log), rules)) {
  state_->watched = place.rank;
  state_->watch_next();
  state_->talker = std::thread(talk, state_);
  state_->watcher = std::thread(watch, state_);
}

void Liveness::talk(const std::shared_ptr<State>& state) {
  pthread_setname_np(pthread_self(), "accelerate-beat");
  State& s = *state;
  std::unique_lock lock(s.mutex);
  bool said_goodbye = false;
  auto goodbye_at = Clock::now();
  try {
    while (true) {
      const bool goodbye = s.farewell && !said_goodbye;
      const std::string why = s.farewell.value_or("");
      lock.unlock();
      if (goodbye) {
        s.store->add(key("beat", s.place.rank), kGoodbye);
        s.store->set(key("left", s.store->add("left", 1)), std::to_string(s.place.rank) + " " + why);
        said_goodbye = true;
        goodbye_at = Clock::now();
      }
      s.exchange();
      if (!said_goodbye) s.look_at_slow();
      lock.lock();
      s.contact = Clock::now();
      const bool all_left = static_cast<int>(s.left.size()) == s.place.size;
      const bool heard = Clock::now() - goodbye_at > s.rules.silence / 2;
      if (said_goodbye && (!s.place.serves_store || all_left || heard)) break;
      const auto pause = said_goodbye ? std::chrono::milliseconds(20) : s.rules.interval;
      s.changed.wait_for(lock, pause, [&] { return s.farewell && !said_goodbye; });
    }
    s.talking = false;
    lock.unlock();
  } catch (const std::exception& error) {
    if (lock.owns_lock()) lock.unlock();
    bool expected = false;
    {
      const std::lock_guard again(s.mutex);
      // The rank that serves the store may end first; whoever it told goes on without.
      expected = said_goodbye || s.farewell || s.left.contains(0);
      s.talking = false;
    }
    if (!expected) {
      std::string reason = error.what();
      s.declare_lost(s.place.store_server + " is lost: the store it serves broke off (" +
                     reason.substr(0, reason.find('\n')) + ")");
    }
  }
  s.changed.notify_all();
}

void Liveness::watch(const std::shared_ptr<State>& state) {
  pthread_setname_np(pthread_self(), "accelerate-watch");
  State& s = *state;
  std::unique_lock lock(s.mutex);
  while (!s.stopping) {
    s.changed.wait_for(lock, s.rules.interval / 4);
    const bool silent = s.talking && !s.lost && Clock::now() - s.contact > s.rules.silence;
    lock.unlock();
    if (silent) {
      s.declare_lost(s.place.store_server + " is lost: the store it serves gave no answer for " +
                     seconds(s.rules.silence));
    }
    if (const auto why = s.device_stuck()) s.declare_lost(*why);
    for (const Operation& stuck : s.operations.take_if(
             [&](const Operation& operation) { return operation.future && s.verdict(operation).has_value(); })) {
      const std::string why = s.verdict(stuck).value_or("");
      {
        const std::lock_guard again(s.mutex);
        s.gave_up = true;
      }
      stuck.future->setErrorIfNeeded(std::make_exception_ptr(error_of(s.place, stuck, why)));
    }
    lock.lock();
  }
  s.watching = false;
  lock.unlock();
  s.changed.notify_all();
}

void Liveness::sweep(const std::shared_ptr<State>& state) {
  pthread_setname_np(pthread_self(), "accelerate-done");
  State& s = *state;
  std::unique_lock lock(s.mutex);
  while (!s.stopping) {
    s.changed.wait_for(lock, s.rules.interval / 4);
    lock.unlock();
    std::vector<Operation> on_device;
    s.operations.for_each([&](const Operation& operation) {
      if (operation.work) on_device.push_back(operation);
    });
    for (const Operation& operation : on_device) {
      if (!operation.work->isCompleted()) continue;
      // Not one that has begun again since.
      s.operations.take_if(
          [&](const Operation& same) { return same.id == operation.id && same.start == operation.start; });
    }
    on_device.clear();
    lock.lock();
  }
  s.sweeping = false;
  lock.unlock();
  s.changed.notify_all();
}

bool Liveness::linger() noexcept {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  return s.changed.wait_for(lock, 6 * s.rules.interval, [&] { return !s.talking; });
}

Liveness::~Liveness() {
  leave("its program let go of the group");
  const bool talked = linger();
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.stopping = true;
  s.changed.notify_all();
  s.changed.wait_for(lock, kFarewell, [&] { return !s.watching && !s.sweeping; });
  const bool watched = !s.watching, swept = !s.sweeping;
  lock.unlock();
  // A thread that is held up for ever keeps the state.
  talked ? s.talker.join() : s.talker.detach();
  watched ? s.watcher.join() : s.watcher.detach();
  if (s.sweeper.joinable()) swept ? s.sweeper.join() : s.sweeper.detach();
}

void Liveness::leave(const std::string& why) noexcept {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->farewell) state_->farewell = why;
  }
  state_->changed.notify_all();
}

std::optional<std::string> Liveness::lost() const {
  std::optional<std::string> found;
  state_->operations.for_each([&](const Operation& operation) {
    if (!found) found = state_->verdict(operation);
  });
  if (found) return found;
  const std::lock_guard lock(state_->mutex);
  return state_->lost;
}

std::optional<std::string> Liveness::find_lost() const {
  const auto deadline = Clock::now() + state_->patience();
  while (Clock::now() < deadline) {
    if (auto found = lost()) return found;
    std::unique_lock lock(state_->mutex);
    state_->changed.wait_for(lock, state_->rules.interval / 4);
  }
  return std::nullopt;
}

bool Liveness::settle(std::chrono::milliseconds timeout) const noexcept {
  const auto deadline = Clock::now() + timeout;
  while (true) {
    bool busy = false;
    state_->operations.for_each([&](const Operation& operation) { busy = busy || operation.work; });
    if (!busy) return true;
    if (lost() || Clock::now() > deadline) return false;
    state_->changed.notify_all();  // whoever takes off the list what is through need not wait for the next look
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

bool Liveness::gave_up() const {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, kFarewell, [&] { return !state_->acting; });
  return state_->lost || state_->gave_up;
}

void Liveness::on_lost(std::function<void()> action) {
  const std::lock_guard lock(state_->mutex);
  state_->on_lost.push_back(std::move(action));
  // Of its own: asking a device whether it is through, and letting go of its events, may take as long as the device
  // does.
  if (std::exchange(state_->sweeping, true)) return;
  state_->sweeper = std::thread(sweep, state_);
}

Operations& Liveness::operations() { return state_->operations; }

void Liveness::look() noexcept { state_->changed.notify_all(); }

CommError Liveness::error(const Operation& operation, const std::string& what) const {
  return error_of(state_->place, operation, what);
}

}  // namespace accelerate::internal
