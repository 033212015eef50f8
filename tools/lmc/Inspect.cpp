// `lmc inspect`: numbers of a plan, counted from the file alone. Runs none of
// its code and needs no compiler: the runtime's reader, its checker and sums.
#include "tools/lmc/Inspect.h"

#include "tools/lmc/InspectHtml.h"
#include "tools/lmc/InspectMesh.h"

#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/PlanFile.h"

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <system_error>

using namespace lmc;
using Json = nlohmann::ordered_json;

namespace {

// What runs in one call of a program.
struct Counts {
  int64_t launches = 0, matmuls = 0, copies = 0, collectives = 0, others = 0;
  int64_t flops = 0, bytesMoved = 0;
};

Counts count(const plan::Program &program) {
  Counts counts;
  for (const plan::Instruction &instruction : program.instructions()) {
    switch (instruction.kind_case()) {
    case plan::Instruction::kLaunch:
      ++counts.launches;
      break;
    case plan::Instruction::kMatmul:
      ++counts.matmuls;
      break;
    case plan::Instruction::kCopy:
      ++counts.copies;
      break;
    case plan::Instruction::kCollective:
      ++counts.collectives;
      break;
    default:
      ++counts.others;
    }
    counts.flops += instruction.flops();
    counts.bytesMoved += instruction.bytes_moved();
  }
  return counts;
}

int64_t elements(const plan::State &state) {
  int64_t count = 1;
  for (int64_t size : state.global_shape())
    count *= size;
  return count;
}

Json describeParameters(const plan::Plan &plan) {
  int64_t tensors = 0, total = 0, trainable = 0;
  for (const plan::State &state : plan.states()) {
    if (state.kind() != plan::State::PARAMETER)
      continue;
    ++tensors;
    total += elements(state);
    if (state.trainable())
      trainable += elements(state);
  }
  return {{"tensors", tensors}, {"elements", total}, {"trainable", trainable}};
}

std::string lower(std::string text) {
  for (char &c : text)
    c = char(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

Json describeMemory(const plan::Plan &plan) {
  std::map<std::string, int64_t> byContents;
  Json allocations = Json::array();
  for (const plan::Allocation &allocation : plan.allocations()) {
    std::string contents =
        lower(plan::Allocation::Contents_Name(allocation.contents()));
    byContents[contents] += allocation.bytes();
    allocations.push_back({{"name", allocation.name()},
                           {"contents", contents},
                           {"bytes", allocation.bytes()}});
  }
  int64_t code = 0;
  for (const plan::Code &object : plan.code())
    code += int64_t(object.object().size());
  return {{"peak_bytes", runtime::allocatedBytes(plan, plan::DEVICE)},
          {"host_bytes", runtime::allocatedBytes(plan, plan::HOST)},
          {"code_bytes", code},
          {"bytes_by_contents", byContents},
          {"allocations", allocations}};
}

Json describeKernels(const plan::Plan &plan) {
  std::vector<int64_t> launches(size_t(plan.kernels_size()), 0);
  std::map<std::string, int64_t> matmuls;
  for (const plan::Program &program : plan.programs())
    for (const plan::Instruction &instruction : program.instructions())
      if (instruction.has_launch())
        ++launches[instruction.launch().kernel()];
      else if (instruction.has_matmul())
        ++matmuls[runtime::matmulName(plan, instruction.matmul())];
  Json kernels = Json::array();
  for (int i = 0; i < plan.kernels_size(); ++i)
    kernels.push_back({{"name", plan.kernels(i).name()},
                       {"kind", plan.kernels(i).kind()},
                       {"launches", launches[size_t(i)]}});
  for (const auto &[name, calls] : matmuls)
    kernels.push_back(
        {{"name", name}, {"kind", "matmul"}, {"launches", calls}});
  return kernels;
}

Json describe(const plan::Plan &plan) {
  Json programs = Json::array(), schedules = Json::array();
  std::vector<Counts> counts;
  for (const plan::Program &program : plan.programs()) {
    counts.push_back(count(program));
    const Counts &c = counts.back();
    programs.push_back({{"name", program.name()},
                        {"instructions", program.instructions_size()},
                        {"launches", c.launches},
                        {"matmuls", c.matmuls},
                        {"copies", c.copies},
                        {"collectives", c.collectives},
                        {"flops", c.flops},
                        {"bytes_moved", c.bytesMoved}});
  }
  for (const plan::Schedule &schedule : plan.schedules()) {
    int64_t flops = 0, bytesMoved = 0;
    for (const plan::Call &call : schedule.calls()) {
      flops += counts[call.program()].flops;
      bytesMoved += counts[call.program()].bytesMoved;
    }
    schedules.push_back({{"name", schedule.name()},
                         {"stage", schedule.stage()},
                         {"calls", schedule.calls_size()},
                         {"flops", flops},
                         {"bytes_moved", bytesMoved}});
  }
  Json code = Json::array();
  for (const plan::Code &one : plan.code()) {
    bool isElf = one.object().rfind("\x7f"
                                    "ELF",
                                    0) == 0;
    code.push_back({{"target_cpu", one.target_cpu()},
                    {"format", !isElf                    ? "PTX"
                               : plan.target() == "cuda" ? "cubin"
                                                         : "ELF"},
                    {"bytes", one.object().size()}});
  }
  return {{"compiler_version", plan.compiler_version()},
          {"mode", plan.mode()},
          {"target", plan.target()},
          {"settings", std::map<std::string, std::string>(
                           plan.settings().begin(), plan.settings().end())},
          {"ranks", runtime::worldSize(plan)},
          {"mesh", describeMesh(plan)},
          {"sequence_length", plan.sequence_length()},
          {"micro_batch", plan.micro_batch()},
          {"micro_batches", plan.micro_batches()},
          {"global_batch", plan.global_batch()},
          {"vocabulary", plan.vocabulary()},
          {"parameters", describeParameters(plan)},
          {"memory", describeMemory(plan)},
          {"code", code},
          {"schedules", schedules},
          {"programs", programs},
          {"kernels", describeKernels(plan)}};
}

// 1234567 as "1.235 M".
std::string shorten(int64_t value) {
  double number = double(value);
  for (const char *unit : {"", " K", " M", " G", " T", " P"}) {
    if (number < 1000)
      return fmt::format("{:.4g}{}", number, unit);
    number /= 1000;
  }
  return fmt::format("{:.4g} E", number);
}

std::string bytesText(const Json &bytes) {
  return runtime::formatBytes(bytes.get<double>());
}

void print(const Json &d, const plan::Plan &plan) {
  const Json &parameters = d["parameters"], &memory = d["memory"];
  fmt::print("{} plan for {}, by lmc {}, {} rank{}\n",
             d["mode"].get<std::string>(), d["target"].get<std::string>(),
             d["compiler_version"].get<std::string>(),
             d["ranks"].get<int64_t>(), d["ranks"] == 1 ? "" : "s");
  // Inference forms its batches at run time, and they decide the FLOPs.
  bool trains = d["mode"] == "train";
  auto flopsText = [&](const Json &flops) {
    return trains ? shorten(flops) : std::string("-");
  };
  if (trains)
    fmt::print(
        "batch        {} samples of {} tokens, in {} micro-batch{} of {}\n",
        d["global_batch"].get<int64_t>(), d["sequence_length"].get<int64_t>(),
        d["micro_batches"].get<int64_t>(), d["micro_batches"] == 1 ? "" : "es",
        d["micro_batch"].get<int64_t>());
  // One rank is said above.
  for (const auto &[word, text] : meshLines(plan))
    if (d["ranks"] != 1)
      fmt::print("{:<12} {}\n", word, text);
  fmt::print("parameters   {} in {} tensors, {} of them trainable\n",
             shorten(parameters["elements"]), parameters["tensors"].dump(),
             shorten(parameters["trainable"]));
  for (const Json &code : d["code"])
    fmt::print("code         {} of {} for {}\n", bytesText(code["bytes"]),
               code["format"].get<std::string>(),
               code["target_cpu"].get<std::string>());

  fmt::print("\npeak memory per rank  {} ({} bytes)\n",
             bytesText(memory["peak_bytes"]), memory["peak_bytes"].dump());
  for (const Json &allocation : memory["allocations"])
    fmt::print("  {:<14} {:<10} {:>12}\n",
               allocation["name"].get<std::string>(),
               allocation["contents"].get<std::string>(),
               bytesText(allocation["bytes"]));

  fmt::print("\n{:<16} {:>6} {:>12} {:>12}\n", "schedule", "calls", "FLOPs",
             "bytes moved");
  bool hasStages =
      d["schedules"].size() > 0 && d["schedules"].back()["stage"] != 0;
  for (const Json &schedule : d["schedules"])
    fmt::print("{:<16} {:>6} {:>12} {:>12}\n",
               schedule["name"].get<std::string>() +
                   (hasStages ? ", stage " + schedule["stage"].dump() : ""),
               schedule["calls"].dump(), flopsText(schedule["flops"]),
               bytesText(schedule["bytes_moved"]));

  fmt::print("\n{:<16} {:>8} {:>7} {:>11} {:>12} {:>12}\n", "program",
             "launches", "copies", "collectives", "FLOPs", "bytes moved");
  for (const Json &program : d["programs"])
    fmt::print("{:<16} {:>8} {:>7} {:>11} {:>12} {:>12}\n",
               program["name"].get<std::string>(),
               program["launches"].get<int64_t>() +
                   program["matmuls"].get<int64_t>(),
               program["copies"].dump(), program["collectives"].dump(),
               flopsText(program["flops"]), bytesText(program["bytes_moved"]));

  fmt::print("\n{:<32} {:<16} {:>8}\n", "kernel", "kind", "launches");
  for (const Json &kernel : d["kernels"])
    fmt::print("{:<32} {:<16} {:>8}\n", kernel["name"].get<std::string>(),
               kernel["kind"].get<std::string>(), kernel["launches"].dump());
}

} // namespace

int lmc::inspect(const std::string &path, bool json, const std::string &html) {
  runtime::StatusOr<plan::Plan> plan = runtime::readPlanFile(path);
  if (!plan.ok())
    return runtime::report(plan.status());
  if (runtime::Status status = runtime::checkPlan(*plan); !status.ok())
    return runtime::report(std::move(status).prepend(path));
  StepFacts step = factsOfStep(*plan);
  if (!html.empty()) {
    if (runtime::Status status = runtime::refuseInputAsOutput(html, {path});
        !status.ok())
      return runtime::report(status);
    std::string name = path.substr(path.rfind('/') + 1);
    runtime::Status status =
        runtime::writeWholeFile(html, htmlPage(*plan, step, name));
    return status.ok() ? 0 : runtime::report(status);
  }
  Json description = describe(*plan);
  if (!step.stages.empty())
    description["step"] = describeStep(*plan, step);
  bool wrote = true;
  // fmt throws what a write to a full disk or a closed pipe meets.
  try {
    if (json)
      fmt::print("{}\n", description.dump(2, ' ', false,
                                          Json::error_handler_t::replace));
    else {
      print(description, *plan);
      printStep(*plan, step);
    }
  } catch (const std::system_error &) {
    wrote = false;
  }
  if (std::fflush(stdout) == 0 && wrote)
    return 0;
  return runtime::report(runtime::makeError(
      errno == ENOSPC ? runtime::ErrorKind::DoesNotFit
                      : runtime::ErrorKind::JobFailed,
      "cannot write to the standard output: {}", std::strerror(errno)));
}
