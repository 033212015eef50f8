// The subcommands of lmrun. Each adds its flags to the parser and runs when it
// was chosen; what they do is in runtime/.
#ifndef LMC_TOOLS_LMRUN_COMMANDS_H
#define LMC_TOOLS_LMRUN_COMMANDS_H

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>

namespace lmc::runtime {
class Status;
struct SessionOptions;
struct TraceOptions;
} // namespace lmc::runtime

/// What is run after parsing when the subcommand was given.
using CommandBody = std::function<lmc::runtime::Status()>;

/// The flags of every command that runs an inference session on this machine.
void addSessionOptions(CLI::App &command,
                       lmc::runtime::SessionOptions &session);

/// --trace and what goes with it, in a group of the help.
void addTraceOptions(CLI::App &command, lmc::runtime::TraceOptions &trace,
                     const std::string &group);

CommandBody addBenchCommand(CLI::App &app);
CommandBody addDevicesCommand(CLI::App &app);
CommandBody addEvalCommand(CLI::App &app);
CommandBody addGenerateCommand(CLI::App &app);
CommandBody addTrainCommand(CLI::App &app);

/// Of `lmrun train`, before it has met the other ranks that a launcher started:
/// tells them why this one does not come, and says which rank it is.
lmc::runtime::Status tellOtherRanks(lmc::runtime::Status failure);
CommandBody addTokenizeCommand(CLI::App &app);

#endif // LMC_TOOLS_LMRUN_COMMANDS_H
