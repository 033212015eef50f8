// What lies otherwise than an operation needs it, and is brought there: the
// reshards of a stage, with what they cost a rank in a step.
#ifndef LMC_TOOLS_LMC_STEPRESHARDS_H
#define LMC_TOOLS_LMC_STEPRESHARDS_H

#include "runtime/plan/plan.pb.h"

#include <string>
#include <vector>

namespace lmc {

// Reshards of one stage that differ in the layer's number alone.
struct StepReshard {
  const plan::Reshard *change = nullptr;
  std::string program; // forward, backward
  std::string place;   // of the value: "model.textproto:20 h.*.attn.out"
  std::string user;    // the same of who needs it
  int64_t calls = 0;   // in a step, over all micro-batches

  int64_t received() const { return calls * change->received_bytes(); }
};

// Program by program, in the order of their first calls. With `anyLayer` the
// layers of a model come together. `plan` has passed the checker
// and outlives the result.
std::vector<StepReshard> reshardsOf(const plan::Plan &plan,
                                    const plan::Schedule &schedule,
                                    bool anyLayer);

// Of a step: bytes that a rank receives, what the compiler minimises.
int64_t priceOf(const std::vector<StepReshard> &reshards);

// "dp, –, –; partial on tp -> dp, –, –"; "all_reduce tp, then slice tp dim 1".
std::string changeText(const plan::Reshard &change);
std::string stepsText(const plan::Reshard &change);

} // namespace lmc

#endif // LMC_TOOLS_LMC_STEPRESHARDS_H
