// Loading of plugins, and what can be wrong with one.
#include "passes/Plugin.h"

#include "mlir/Pass/PassRegistry.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

#include <dlfcn.h>

using namespace mlir;
using namespace lmc;

namespace {

constexpr char kEntryPoint[] = "lmcGetPlugin";
constexpr size_t kMaxStampBytes = 256;

LogicalResult complain(PluginComplaint &complaint, PluginComplaint::Kind kind,
                       const llvm::Twine &message,
                       const llvm::Twine &help = "") {
  complaint = {kind, message.str(), help.str()};
  return failure();
}

// The phases that passes can follow, for messages.
std::string phasesWithPasses() {
  std::string names;
  for (Phase phase : allPhases())
    if (phase != Phase::Emit)
      names += (names.empty() ? "" : ", ") + phaseName(phase).str();
  return names;
}

// Emit leaves no module behind that a pass could see.
std::optional<Phase> findPhaseWithPasses(StringRef name) {
  std::optional<Phase> phase = findPhase(name);
  return phase == Phase::Emit ? std::nullopt : phase;
}

const PluginInfo *askForInfo(void *library) {
  using EntryPoint = const PluginInfo *();
  auto *entry = reinterpret_cast<EntryPoint *>(dlsym(library, kEntryPoint));
  return entry ? entry() : nullptr;
}

// What the plugin in `file` was built for, as its bytes say; empty where it
// is none. A plugin of another version could not be opened to be asked: it
// lacks symbols.
std::string findStamp(StringRef file) {
  auto buffer = llvm::MemoryBuffer::getFile(file, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  if (!buffer)
    return "";
  StringRef bytes = (*buffer)->getBuffer();
  StringRef mark = LMC_PLUGIN_STAMP_MARK;
  for (size_t at = bytes.find(mark); at != StringRef::npos;
       at = bytes.find(mark, at + 1)) {
    StringRef stamp = bytes.drop_front(at).take_front(kMaxStampBytes);
    stamp = stamp.take_until([](char c) { return c == '\0'; });
    if (stamp.size() > mark.size()) // liblmc.so holds the mark alone, too
      return stamp.str();
  }
  return "";
}

StringRef withoutMark(StringRef stamp) {
  stamp.consume_front(LMC_PLUGIN_STAMP_MARK);
  return stamp;
}

// What MLIR's pipeline parser says, without its name for the text, the text
// and the caret under it.
std::string firstSentence(StringRef problem) {
  StringRef line = problem.trim().split('\n').first;
  for (StringRef prefix : {"error: ", "<Pass-Options-Parser>: "})
    if (size_t at = line.find(prefix); at != StringRef::npos)
      line = line.drop_front(at + prefix.size());
  return line.str();
}

} // namespace

LogicalResult Plugins::load(StringRef path, DialectRegistry &dialects,
                            PluginComplaint &complaint) {
  using Kind = PluginComplaint::Kind;
  // An absolute path keeps the dynamic linker from searching its own folders.
  SmallString<256> file(path);
  if (std::error_code error = llvm::sys::fs::make_absolute(file))
    return complain(complaint, Kind::WrongInput,
                    "cannot find plugin '" + path + "': " + error.message());
  if (!llvm::sys::fs::exists(file))
    return complain(complaint, Kind::WrongInput,
                    "there is no plugin '" + path + "'",
                    "--load-pass-plugin takes the path of a shared object");
  std::string stamp = findStamp(file);
  if (stamp.empty())
    return complain(complaint, Kind::NotAPlugin, "'" + path + "' is no plugin",
                    "a plugin is a shared object made with lmc_add_plugin");
  if (stamp != LMC_PLUGIN_STAMP)
    return complain(complaint, Kind::OtherVersion,
                    "plugin '" + path + "' was built for " +
                        withoutMark(stamp) + "; this is " +
                        withoutMark(LMC_PLUGIN_STAMP),
                    "build it again against this installation");
  // Every symbol is looked up at once, so that none is found missing in the
  // middle of a compilation.
  void *library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return complain(complaint, Kind::WrongInput,
                    "cannot load plugin '" + path + "': " + dlerror(),
                    "link it with lmc::lmc, or make it with lmc_add_plugin");
  const PluginInfo *info = askForInfo(library);
  if (!info)
    return complain(complaint, Kind::NotAPlugin,
                    "'" + path + "' is no plugin: it exports no " + kEntryPoint,
                    "passes/Plugin.h says what a plugin exports");
  if (llvm::is_contained(loaded, info))
    return success();

  PluginRegistry registry(dialects);
  info->registerInto(registry);
  if (!registry.takenDialects.empty())
    return complain(complaint, Kind::WrongInput,
                    "plugin '" + path + "' brings a dialect '" +
                        registry.takenDialects.front() +
                        "', and there is one of that name already");
  for (PluginRegistry::Hook &hook : registry.hooks) {
    std::optional<Phase> phase = findPhaseWithPasses(hook.phase);
    if (!phase)
      return complain(complaint, Kind::WrongInput,
                      "plugin '" + path + "' has a hook behind the phase '" +
                          hook.phase + "', which no pass can follow",
                      "one of " + phasesWithPasses());
    hooks.push_back({*phase, std::move(hook.add)});
  }
  loaded.push_back(info);
  return success();
}

LogicalResult Plugins::addPass(StringRef text, PluginComplaint &complaint) {
  using Kind = PluginComplaint::Kind;
  auto [place, pipeline] = text.split(':');
  if (!place.consume_front("after-") || pipeline.empty())
    return complain(complaint, Kind::WrongInput,
                    "--pass=" + text + " does not say where which pass runs",
                    "--pass=after-PHASE:PASS, PHASE one of " +
                        phasesWithPasses());
  std::optional<Phase> phase = findPhaseWithPasses(place);
  if (!phase)
    return complain(complaint, Kind::WrongInput,
                    "--pass=" + text + " names the phase '" + place +
                        "', which no pass can follow",
                    "one of " + phasesWithPasses());
  // Whether it parses is found out here, before the model is read.
  OpPassManager manager;
  std::string problem;
  llvm::raw_string_ostream stream(problem);
  if (failed(parsePassPipeline(pipeline, manager, stream)))
    return complain(complaint, Kind::WrongInput,
                    "--pass=" + text + ": " + firstSentence(problem),
                    "`lmc-opt --help` lists passes and their options; those of "
                    "a plugin are known with --load-pass-plugin=LIB");
  passes.push_back(
      {*phase, [pipeline = pipeline.str()](OpPassManager &manager) {
         (void)parsePassPipeline(pipeline, manager, llvm::errs());
       }});
  return success();
}

void Plugins::addPasses(OpPassManager &manager, Phase phase) const {
  for (const std::vector<Entry> *entries : {&hooks, &passes})
    for (const Entry &entry : *entries)
      if (entry.phase == phase)
        entry.add(manager);
}

std::string Plugins::describe() const {
  std::string text;
  for (const PluginInfo *info : loaded)
    text += (text.empty() ? "" : ", ") + std::string(info->name) + " " +
            info->version;
  return text;
}
