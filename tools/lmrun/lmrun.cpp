// lmrun: executes plans. This file parses the command line and prints what
// went wrong; the work is in runtime/.
#include "runtime/base/Log.h"
#include "runtime/base/StandardStreams.h"
#include "runtime/base/Version.h"
#include "runtime/generate/Session.h"
#include "tools/EmptyFlags.h"
#include "tools/lmrun/Commands.h"

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <unistd.h>

using namespace lmc::runtime;

/// Every long flag of a command, for "did you mean".
static std::vector<std::string> flagsOf(CLI::App &app) {
  std::vector<std::string> names;
  for (CLI::Option *option : app.get_options())
    for (const std::string &name : option->get_lnames())
      names.push_back("--" + name);
  return names;
}

/// The parser takes "nan", which passes every range, and "inf" for numbers; it
/// cuts integers to what fits, and wraps those below 0.
static Status checkNumbers(CLI::App &app) {
  for (CLI::App *command : app.get_subcommands())
    for (CLI::Option *option : command->get_options()) {
      std::string type = option->get_type_name();
      for (const std::string &text : option->results()) {
        auto refuse = [&](const char *wanted) {
          return wrongInput("{} {}: {} is wanted", option->get_name(), text,
                            wanted);
        };
        errno = 0;
        if (type.compare(0, 5, "FLOAT") == 0) {
          if (!std::isfinite(std::strtod(text.c_str(), nullptr)))
            return refuse("a finite number");
        } else if (type.compare(0, 4, "UINT") == 0) {
          (void)std::strtoull(text.c_str(), nullptr, 10);
          if (errno == ERANGE || text.compare(0, 1, "-") == 0)
            return refuse("a number from 0 to 2^64 - 1");
        } else if (type.compare(0, 3, "INT") == 0) {
          (void)std::strtoll(text.c_str(), nullptr, 10);
          if (errno == ERANGE)
            return refuse("a number below 2^63");
        }
      }
    }
  return Status();
}

/// What a flag of llama.cpp, Megatron-LM or torchtitan is called here.
static const char *nameHere(std::string_view flag) {
  static constexpr std::pair<const char *, const char *> names[] = {
      {"-n", "--max-tokens"},
      {"--n-predict", "--max-tokens"},
      {"-p", "--prompt"},
      {"--temp", "--temperature"},
      {"-m", "--weights"},
      {"--model", "--weights"},
      {"-t", "--threads"},
      {"-s", "--seed"},
      {"--lr", "--set lr=NUMBER"},
      {"--weight-decay", "--set weight_decay=NUMBER"},
      {"--clip-grad", "--set clip_norm=NUMBER"},
      {"--adam-beta1", "--set beta1=NUMBER"},
      {"--adam-beta2", "--set beta2=NUMBER"},
      {"--adam-eps", "--set eps=NUMBER"},
      {"--train-iters", "--steps"},
      {"--data-path", "--data"},
      {"--save", "--checkpoint"},
      {"--save-interval", "--save-every"},
      {"--eval-interval", "--eval-every"},
      {"--micro-batch-size", "lmc compile --micro-batch"},
      {"--global-batch-size", "lmc compile --global-batch"},
      {"--seq-length", "lmc compile --seq"},
      {"-c", "lmc compile --max-length"},
      {"--ctx-size", "lmc compile --max-length"},
  };
  for (const auto &[there, here] : names)
    if (flag == there)
      return here;
  return nullptr;
}

static int reportParseError(CLI::App &app, const CLI::ParseError &error) {
  CLI::App *chosen = &app;
  for (CLI::App *command : app.get_subcommands())
    chosen = command;
  std::string message = error.what();
  Status status(ErrorKind::WrongInput, message);
  std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  // A misspelt flag is often the reason why another one is missing.
  int code = error.get_exit_code();
  if (!unknown.empty() && (code == int(CLI::ExitCodes::ExtrasError) ||
                           code == int(CLI::ExitCodes::RequiredError))) {
    std::string word = unknown[0].substr(0, unknown[0].find('='));
    bool isFlag = word.compare(0, 1, "-") == 0;
    status = isFlag ? wrongInput("unknown flag {}", word)
                    : wrongInput("unexpected argument \"{}\"", word);
    std::vector<std::string> names = flagsOf(*chosen);
    if (!isFlag && chosen == &app)
      for (CLI::App *command : app.get_subcommands({}))
        names.push_back(command->get_name());
    if (const char *here = nameHere(word))
      status = std::move(status).help("here this is {}", here);
    else if (word.compare(0, 5, "step_") == 0 && chosen->get_name() == "train")
      status = std::move(status).help("did you mean --resume={}?", word);
    else if (std::string near = nearestName(word, names); !near.empty())
      status = std::move(status).help("did you mean {}?", near);
  }
  std::string command =
      chosen == &app ? "lmrun" : "lmrun " + chosen->get_name();
  status = std::move(status).help("{} --help lists what there is", command);
  return report(chosen->get_name() == "train"
                    ? tellOtherRanks(std::move(status))
                    : status);
}

void addSessionOptions(CLI::App &command,
                       lmc::runtime::SessionOptions &session) {
  command.add_option("--threads", session.threads, "Threads (0: one per core)")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_flag("!--no-pin", session.pinThreads,
                   "Do not pin threads to cores");
  command
      .add_option("--set", session.settings,
                  "Set a run-time number of the plan, such as tf32=1 where it "
                  "trains on a GPU")
      ->type_name("NAME=NUMBER");
  addTraceOptions(command, session.trace, "Options");
}

static void readTraceSteps(const std::string &text, TraceOptions &trace) {
  int64_t first = 0, last = 0;
  int end = 0;
  if (text.size() > 38 ||
      std::sscanf(text.c_str(), "%ld..%ld%n", &first, &last, &end) != 2 ||
      size_t(end) != text.size() || first < 1 || last < first)
    throw CLI::ValidationError("--trace-steps " + text,
                               "FIRST..LAST is wanted, such as 2..4");
  trace.firstStep = first;
  trace.lastStep = last;
}

void addTraceOptions(CLI::App &command, TraceOptions &trace,
                     const std::string &group) {
  CLI::Option *file =
      command
          .add_option("--trace", trace.path,
                      "Write when each instruction ran, for ui.perfetto.dev; "
                      "of several ranks each writes FILE.RANK. Also when the "
                      "job fails")
          ->type_name("FILE")
          ->group(group);
  command
      .add_option_function<std::string>(
          "--trace-format",
          [&trace](const std::string &name) { trace.json = name == "json"; },
          "perfetto or json (Chrome's)")
      ->check(CLI::IsMember({"perfetto", "json"}))
      ->default_str("perfetto")
      ->needs(file)
      ->group(group);
  command
      .add_option_function<std::string>(
          "--trace-steps",
          [&trace](const std::string &text) { readTraceSteps(text, trace); },
          "The steps in the trace, counted from where the run begins, "
          "evaluations by themselves; more make the file larger")
      ->type_name("FIRST..LAST")
      ->default_str("1..4")
      ->needs(file)
      ->group(group);
}

/// Where there is no memory left, nothing can be told at leisure.
[[noreturn]] static void endWithoutMemory() {
  constexpr std::string_view text =
      "error: out of memory: the system gives no more to this process\n"
      "  help: free some, or allow more (ulimit -v)\n";
  (void)!::write(STDERR_FILENO, text.data(), text.size());
  ::_exit(int(ErrorKind::DoesNotFit));
}

int main(int argc, char **argv) {
  reserveStandardStreams();
  std::set_new_handler(endWithoutMemory);
  // A reader that goes away and a file beyond its limit are seen as errors of
  // write, not as signals.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app("Executes plans that lmc compile has made.", "lmrun");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("lmrun ") + runtimeVersion);
  app.footer(
      "Exit status: 0 done; 1 the job failed; 2 the call or an input is "
      "wrong; 3 it does\nnot fit, into memory or onto a disk; 4 a file is "
      "damaged or of another version; 5 a\npeer failed; 6 stopped on its "
      "numbers (NaN); 70 a bug of lmrun; 75 told to stop,\ncheckpoint "
      "saved.\n\nExamples:\n"
      "  lmrun tokenize --input book.txt -o book.tok\n"
      "  lmrun train gpt.plan --data book.tok --steps 500");
  CommandBody train = addTrainCommand(app);
  CommandBody generate = addGenerateCommand(app);
  CommandBody eval = addEvalCommand(app);
  CommandBody bench = addBenchCommand(app);
  CommandBody devices = addDevicesCommand(app);
  CommandBody tokenize = addTokenizeCommand(app);
  if (std::string flag = lmc::emptyFlag(argc, argv); !flag.empty())
    return report(wrongInput("{} has no value", flag)
                      .help("give it one, or leave the flag out"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp &request) {
    return app.exit(request);
  } catch (const CLI::CallForAllHelp &request) {
    return app.exit(request);
  } catch (const CLI::CallForVersion &request) {
    return app.exit(request);
  } catch (const CLI::ParseError &error) {
    return reportParseError(app, error);
  }
  if (Status status = checkNumbers(app); !status.ok())
    return report(app.got_subcommand("train")
                      ? tellOtherRanks(std::move(status))
                      : status);
  if (app.got_subcommand("train"))
    return report(train());
  if (app.got_subcommand("generate"))
    return report(generate());
  if (app.got_subcommand("eval"))
    return report(eval());
  if (app.got_subcommand("bench"))
    return report(bench());
  if (app.got_subcommand("devices"))
    return report(devices());
  return report(tokenize());
}
