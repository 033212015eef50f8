// See StepModel.h.
#include "runtime/generate/StepModel.h"
#include "runtime/generate/Session.h"

#include <cstdlib>

namespace lmc::runtime {

StatusOr<StepModel> StepModel::create(Executor &executor) {
  const plan::Plan &plan = executor.plan();
  int schedule = executor.findSchedule("step");
  if (schedule < 0)
    return wrongInput("the plan has no program that gives logits")
        .help("compile with --mode=infer");
  int64_t pageSize = 0, cacheRows = 0;
  if (auto setting = plan.settings().find("page_size");
      setting != plan.settings().end())
    pageSize = std::strtoll(setting->second.c_str(), nullptr, 10);
  for (const plan::State &state : plan.states())
    if (state.kind() == plan::State::CACHE && state.local_shape_size() > 0) {
      int64_t rows = state.local_shape(0);
      cacheRows = cacheRows == 0 ? rows : std::min(cacheRows, rows);
    }
  const plan::Port *pagesPort = findInput(plan, "pages");
  bool caches = cacheRows > 0;
  if (!pagesPort || pagesPort->shape_size() != 2 || pageSize < 1 ||
      (caches && cacheRows < pageSize) || pagesPort->shape(0) < 1 ||
      pagesPort->shape(1) * pageSize < plan.sequence_length())
    return corrupt("the plan's cache of {} rows in pages of {} does not hold "
                   "a sequence of {} tokens",
                   cacheRows, pageSize, plan.sequence_length());
  // Without attention nothing is cached, and no sequence waits for a page.
  int64_t numPages =
      caches ? cacheRows / pageSize : pagesPort->shape(0) * pagesPort->shape(1);
  StepModel model(executor, PagedCache(numPages, pageSize, pagesPort->shape(0),
                                       pagesPort->shape(1)));
  model.schedule = schedule;
  model.pagesPort = pagesPort;
  struct Wanted {
    const char *name;
    const plan::Port **port;
  };
  for (Wanted wanted : {Wanted{"tokens", &model.tokensPort},
                        {"positions", &model.positionsPort},
                        {"sequences", &model.sequencesPort},
                        {"slots", &model.slotsPort},
                        {"logit_rows", &model.logitRowsPort}}) {
    const plan::Port *port = findInput(plan, wanted.name);
    if (!port || port->shape_size() != 1 || port->dtype() != plan::I32)
      return corrupt("the plan's step has no input \"{}\" of one dim",
                     wanted.name);
    *wanted.port = port;
  }
  model.logitsPort = findOutput(plan, "logits");
  if (!model.logitsPort || model.logitsPort->dtype() != plan::F32)
    return corrupt("the plan's step has no float32 output \"logits\"");
  return std::move(model);
}

void StepModel::begin() {
  for (auto *list : {&tokens, &positions, &sequences, &slots, &logitRows})
    list->clear();
}

void StepModel::add(int row, int64_t position, int32_t token,
                    bool wantsLogits) {
  if (wantsLogits)
    logitRows.push_back(int32_t(tokens.size()));
  tokens.push_back(token);
  positions.push_back(int32_t(position));
  sequences.push_back(row);
  slots.push_back(pages.slot(row, position));
}

Status StepModel::run() {
  auto put = [&](const plan::Port *port, const std::vector<int32_t> &values) {
    executor->device().write(executor->address(port->slice()), values.data(),
                             int64_t(values.size()) * 4);
  };
  LMC_RETURN_IF_ERROR(executor->setSize("tokens", numTokens()));
  LMC_RETURN_IF_ERROR(executor->setSize("logits", numLogits()));
  put(tokensPort, tokens);
  put(positionsPort, positions);
  put(sequencesPort, sequences);
  put(slotsPort, slots);
  put(logitRowsPort, logitRows);
  put(pagesPort, pages.pageTable());
  LMC_RETURN_IF_ERROR(executor->run(schedule));
  Device &device = executor->device();
  if (device.hostAccessible())
    return Status();
  hostLogits.resize(size_t(numLogits() * vocabulary()));
  device.read(executor->address(logitsPort->slice()), hostLogits.data(),
              int64_t(hostLogits.size() * sizeof(float)));
  return device.synchronize();
}

const float *StepModel::logits(int64_t index) const {
  if (!executor->device().hostAccessible())
    return hostLogits.data() + index * vocabulary();
  return reinterpret_cast<const float *>(
             executor->address(logitsPort->slice())) +
         index * vocabulary();
}

} // namespace lmc::runtime
