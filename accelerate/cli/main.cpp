#include <exception>
#include <iostream>

#include "accelerate/cli/command.h"
#include "accelerate/cli/nearest.h"
#include "accelerate/core/error.h"
#include "accelerate/core/registry.h"

namespace accelerate::internal {
namespace {

constexpr int kWrongUsage = 2;

std::string help(const Registry<Command>& commands) {
  std::string text =
      "The command line of accelerate.cpp.\n"
      "Usage: accelerate-cpp COMMAND [OPTIONS] ...\n"
      "\n"
      "Commands:\n";
  for (const Command& command : commands.all()) {
    text += "  " + command.name + std::string(20 - command.name.size(), ' ') + command.summary + "\n";
  }
  return text +
         "\n"
         "Options:\n"
         "  -h,--help           This text; after a command, its options\n"
         "  --version           The version\n";
}

const Command& find(const Registry<Command>& commands, const std::string& name) {
  if (const Command* command = commands.find(name)) return *command;
  std::vector<std::string> words{"--help", "--version"};
  for (const Command& command : commands.all()) words.push_back(command.name);
  const std::string guess = nearest(name, words);
  throw ConfigError({.place = "accelerate-cpp",
                     .what = name.starts_with("-") ? "There is no such option" : "There is no such command",
                     .got = "\"" + name + "\"",
                     .expected = "a command (" + commands.names() + "), --help or --version",
                     .remedy = guess.empty() ? "Type: accelerate-cpp --help" : "The nearest is " + guess});
}

int run(std::vector<std::string> arguments) {
  const Registry<Command> commands("command", builtin_commands());
  if (arguments.empty()) {
    std::cerr << help(commands);
    return 1;
  }
  const std::string first = arguments.front();
  if (first == "-h" || first == "--help") {
    std::cout << help(commands);
    return 0;
  }
  if (first == "--version") {
    std::cout << "accelerate-cpp " ACCELERATE_VERSION "\n";
    return 0;
  }
  arguments.erase(arguments.begin());
  return find(commands, first).run(std::move(arguments), Environment::of_process());
}

}  // namespace
}  // namespace accelerate::internal

int main(int argc, char** argv) {
  try {
    return accelerate::internal::run(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
  } catch (const accelerate::ConfigError& error) {
    std::cerr << error.what() << "\n";
    return accelerate::internal::kWrongUsage;
  } catch (const std::exception& error) {
    std::cerr << "[accelerate-cpp] " << error.what() << "\n";
    return 1;
  }
}
