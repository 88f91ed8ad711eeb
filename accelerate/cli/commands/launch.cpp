// Starts a program once per rank. Names of options: the peer's.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iostream>

#include "accelerate/cli/command.h"
#include "accelerate/cli/nearest.h"
#include "accelerate/core/error.h"
#include "accelerate/launch/config.h"
#include "accelerate/launch/launcher.h"
#include "accelerate/launch/program.h"

namespace accelerate::internal {
namespace {

using Text = std::optional<std::string>;

/// The options as they were typed; numbers are read here, so that every refusal has the same form.
struct Typed {
  Text num_processes, num_machines, machine_rank, main_process_ip, main_process_port, gpu_ids, threads;
  Text mixed_precision, accumulation, grace_period;
  bool cpu = false, prefix_output = false;
};

class Usage : public CLI::Formatter {
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: accelerate-cpp launch [OPTIONS] program [arguments of the program]\n";
  }
};

void declare(CLI::App& app, Typed& typed) {
  const auto option = [&](const std::string& names, Text& value, const std::string& type, const std::string& help) {
    app.add_option(names, value, help)->type_name(type)->take_last();
  };
  app.set_help_flag("-h,--help", "This text");
  app.formatter(std::make_shared<Usage>());
  option("--num-processes", typed.num_processes, "N",
         "Processes, over all machines. Default: one per visible GPU, or 1");
  option("--num-cpu-threads-per-process", typed.threads, "N",
         "OMP_NUM_THREADS. Default: what is set, else cores / processes");
  option("--gpu-ids", typed.gpu_ids, "IDS", "GPUs to use: 0,1 or all. Default: those that are visible");
  app.add_flag("--cpu", typed.cpu, "Train on the CPU, whatever GPUs there are");
  option("--mixed-precision", typed.mixed_precision, "NAME", "The program's default of mixed_precision");
  option("--gradient-accumulation-steps", typed.accumulation, "N",
         "The program's default of gradient_accumulation_steps");
  app.add_flag("--prefix-output", typed.prefix_output, "Put [rank] in front of every line of the program");
  option("--main-process-port,--master-port", typed.main_process_port, "PORT",
         "Where rank 0 listens. Default, and 0: a free port");
  option("--num-machines", typed.num_machines, "M", "Machines that the processes are shared out to. Default: 1");
  option("--machine-rank", typed.machine_rank, "R", "Which of them this one is, from 0");
  option("--main-process-ip,--master-addr", typed.main_process_ip, "ADDRESS", "Of machine 0, as the others reach it");
  option("--grace-period", typed.grace_period, "SECONDS",
         "From SIGTERM to SIGKILL. Default: 5 after a failure, 30 after a signal to the launcher");
  app.footer(
      "Every _ in the name of an option may be typed for a -. What comes after the program is the program's own.");
}

std::vector<std::string> names(const CLI::App& app) {
  std::vector<std::string> all;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) all.push_back("--" + name);
  }
  return all;
}

/// --num_processes=2 -> --num-processes=2
std::string with_hyphens(std::string word) {
  const auto end = word.begin() + static_cast<std::ptrdiff_t>(std::min(word.find('='), word.size()));
  std::replace(word.begin(), end, '_', '-');
  return word;
}

const CLI::Option& known(const CLI::App& app, const std::string& typed, const std::string& name) {
  if (const CLI::Option* option = app.get_option_no_throw(name)) return *option;
  const std::string guess = nearest(name, names(app));
  throw ConfigError({.place = "launch",
                     .what = "There is no such option",
                     .got = typed,
                     .expected = "an option of accelerate-cpp launch --help, or the program",
                     .remedy = guess.empty() ? "Options of the program come after it" : "The nearest is " + guess});
}

/// Takes the launcher's own words off the front; what is left is the program's.
std::vector<std::string> take_options(const CLI::App& app, std::vector<std::string>& words) {
  std::vector<std::string> own;
  size_t next = 0;
  while (next < words.size() && words[next].size() > 1 && words[next].front() == '-') {
    const std::string word = words[next++];
    if (word == "--") break;
    const std::string option = with_hyphens(word);
    const size_t equals = std::min(option.find('='), option.size());
    const std::string name = option.substr(0, equals);
    if (known(app, word, name).get_expected_min() == 0) {
      own.push_back(option);
      continue;
    }
    own.push_back(name);
    if (equals < option.size()) {
      own.push_back(option.substr(equals + 1));
      continue;
    }
    if (next == words.size()) {
      throw ConfigError({.place = name,
                         .what = "The option has no value",
                         .got = "the end of the line",
                         .expected = "a value",
                         .remedy = "Type: accelerate-cpp launch --help"});
    }
    own.push_back(words[next++]);
  }
  words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(next));
  return own;
}

std::optional<int64_t> number(const char* option, const Text& text) {
  if (!text) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error == std::errc() && end == text->data() + text->size()) return value;
  throw ConfigError({.place = option,
                     .what = "This is not a number",
                     .got = "\"" + *text + "\"",
                     .expected = "digits",
                     .remedy = std::string("Correct ") + option});
}

launch::LaunchOptions read(const Typed& typed, std::vector<std::string> program) {
  launch::LaunchOptions options{
      .num_processes = number("--num-processes", typed.num_processes),
      .num_machines = number("--num-machines", typed.num_machines),
      .machine_rank = number("--machine-rank", typed.machine_rank),
      .main_process_ip = typed.main_process_ip,
      .main_process_port = number("--main-process-port", typed.main_process_port),
      .gpu_ids = typed.gpu_ids,
      .num_cpu_threads_per_process = number("--num-cpu-threads-per-process", typed.threads),
      .mixed_precision = typed.mixed_precision,
      .gradient_accumulation_steps = number("--gradient-accumulation-steps", typed.accumulation),
      .cpu = typed.cpu,
      .prefix_output = typed.prefix_output,
      .program = std::move(program)};
  if (const auto grace = number("--grace-period", typed.grace_period))
    options.grace_period = std::chrono::seconds(*grace);
  return options;
}

int run(std::vector<std::string> words, const Environment& environment) {
  Typed typed;
  CLI::App app("Starts a program once per rank, with the variables by which the ranks find each other.", "launch");
  declare(app, typed);
  try {
    std::vector<std::string> own = take_options(app, words);
    // CLI11 takes the words from the back.
    std::reverse(own.begin(), own.end());
    app.parse(std::move(own));
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return 0;
  } catch (const CLI::ParseError& error) {
    throw ConfigError({.place = "launch", .what = error.what(), .remedy = "Type: accelerate-cpp launch --help"});
  }
  try {
    const launch::LaunchPlan plan =
        launch::plan_launch(read(typed, std::move(words)), environment, launch::Machine::look());
    const launch::LaunchResult result = launch::launch(plan, environment);
    std::cerr << launch::report(result, plan) << std::flush;
    return result.exit_code();
  } catch (const launch::ProgramError& error) {
    std::cerr << error.what() << "\n";
    return error.exit_code();
  }
}

}  // namespace

Command command_launch() { return {"launch", "Start a program once per rank", run}; }

}  // namespace accelerate::internal
