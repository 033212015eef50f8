// See Session.h.
#include "runtime/generate/Session.h"
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/device/OpenDevice.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/train/TrainOptions.h"
#include "runtime/weights/Boxes.h"

namespace lmc::runtime {

namespace {
struct Call {
  const plan::Plan &plan;
  const SessionOptions &options;
  const std::function<Status(Executor &)> &body;
  int64_t stackBytes;
  std::vector<std::pair<std::string, double>> settings;
  Trace *trace;
  Status result;
};
} // namespace

static Status open(Call &call) {
  const SessionOptions &options = call.options;
  std::vector<int> cores = availableCores();
  CpuDevice::Options device;
  device.threads =
      options.threads > 0 ? options.threads : std::max(1, int(cores.size()));
  device.stackBytes = call.stackBytes;
  device.guardPages = options.guardPages;
  if (options.pinThreads && int(cores.size()) >= device.threads)
    device.cores.assign(cores.begin(), cores.begin() + device.threads);
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Device> opened,
      openDevice(call.plan.target(), hasMatmuls(call.plan), device));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor,
                       Executor::create(call.plan, *opened, nullptr, 0,
                                        {options.profile || options.measure}));
  for (const auto &[name, value] : call.settings)
    (void)executor->setScalar(name, value); // checked by runSession
  if (!options.weights.empty()) {
    LMC_ASSIGN_OR_RETURN(WeightFiles weights,
                         WeightFiles::open(options.weights));
    LMC_RETURN_IF_ERROR(loadParameters(*executor, weights));
  }
  if (call.trace)
    LMC_RETURN_IF_ERROR(executor->setTrace(call.trace));
  LMC_RETURN_IF_ERROR(call.body(*executor));
  if (options.profile)
    printLines(executor->profileReport());
  return Status();
}

Status runSession(const SessionOptions &options,
                  const std::function<Status(Executor &)> &body) {
  LMC_ASSIGN_OR_RETURN(plan::Plan plan, readPlanFile(options.plan));
  if (Status status = checkPlan(plan); !status.ok())
    return std::move(status).prepend(options.plan);
  if (int64_t ranks = worldSize(plan); ranks != 1)
    return wrongInput("the plan is made for {} ranks; one runs here", ranks)
        .help("compile a plan without --mesh: any checkpoint fits it");
  LMC_RETURN_IF_ERROR(
      refuseInputAsOutput(options.trace.path, {options.plan, options.weights}));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Trace> trace,
                       Trace::create(plan, options.trace, /*rank=*/0));
  int64_t stack = 0;
  for (const plan::Kernel &kernel : plan.kernels())
    stack = std::max(stack, kernel.stack_bytes());
  Call call{
      plan, options,     body, std::max<int64_t>(stack + (1 << 20), 8 << 20),
      {},   trace.get(), {}};
  for (const std::string &setting : options.settings) {
    LMC_ASSIGN_OR_RETURN(auto number, readSetting(setting));
    LMC_RETURN_IF_ERROR(checkSetting(plan, number.first, number.second));
    call.settings.push_back(std::move(number));
  }
  LMC_RETURN_IF_ERROR(runOnBigStack(
      call.stackBytes,
      [](void *context) {
        Call &self = *static_cast<Call *>(context);
        self.result = open(self);
      },
      &call));
  return closeTrace(trace.get(), call.result);
}

template <typename Ports>
static const plan::Port *findPort(const Ports &ports, std::string_view name) {
  for (const plan::Port &port : ports)
    if (port.name() == name)
      return &port;
  return nullptr;
}

const plan::Port *findInput(const plan::Plan &plan, std::string_view name) {
  return findPort(plan.inputs(), name);
}
const plan::Port *findOutput(const plan::Plan &plan, std::string_view name) {
  return findPort(plan.outputs(), name);
}

} // namespace lmc::runtime
