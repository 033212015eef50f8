// A training step of a plan, stage by stage: what is exchanged, when calls run,
// which bytes are in use. Ranks of one pipeline stage run the same calls, so
// one of them stands for all.
#ifndef LMC_TOOLS_LMC_INSPECTSTEP_H
#define LMC_TOOLS_LMC_INSPECTSTEP_H

#include "tools/lmc/StepExchanges.h"
#include "tools/lmc/StepMemory.h"
#include "tools/lmc/StepReshards.h"
#include "tools/lmc/StepTimes.h"

#include <nlohmann/json.hpp>

namespace lmc {

struct StageFacts {
  const plan::Schedule *schedule = nullptr; // "train" of this stage
  std::vector<Exchange> exchanges;
  StageMemory memory;
};

struct StepFacts {
  std::vector<StageFacts> stages;
  StepTimes times;
};

// No stages where the plan does not train. `plan` has passed the checker and
// outlives the facts.
StepFacts factsOfStep(const plan::Plan &plan);

nlohmann::ordered_json describeStep(const plan::Plan &plan,
                                    const StepFacts &facts);
void printStep(const plan::Plan &plan, const StepFacts &facts);

} // namespace lmc

#endif // LMC_TOOLS_LMC_INSPECTSTEP_H
