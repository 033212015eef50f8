// What a rank of one pipeline stage exchanges with others in a step: read from
// the plan alone, counted as runtime/comm/Traffic.h counts what passes.
#ifndef LMC_TOOLS_LMC_STEPEXCHANGES_H
#define LMC_TOOLS_LMC_STEPEXCHANGES_H

#include "runtime/comm/Traffic.h"
#include "runtime/plan/plan.pb.h"

namespace lmc {

// Equal exchanges of one place in the model, over all calls of a step.
struct Exchange {
  int row = 0;          // of runtime::Traffic
  std::string axes;     // "dp,fsdp"; a transfer's is "pp"
  std::string dtype;    // "f32"; a transfer's is empty
  int64_t members = 1;  // of the group
  int64_t bytes = 0;    // of one call: the larger of source and target
  int64_t received = 0; // of one call, by one rank, in a ring
  int64_t calls = 0;    // in a step, over all micro-batches
  std::string program;
  uint32_t location = 0; // index into Plan.locations
  bool ofReshard = false;
};

// In the order of their first call. Groups of one rank exchange nothing.
std::vector<Exchange> exchangesOf(const plan::Plan &plan,
                                  const plan::Schedule &schedule);

runtime::Traffic sum(const std::vector<Exchange> &exchanges);

// "model.textproto:20 h.3.attn.qkv"; with `anyLayer` "… h.*.attn.qkv", under
// which the layers of a model come together.
std::string placeOf(const plan::Plan &plan, uint32_t location,
                    bool anyLayer = false);

} // namespace lmc

#endif // LMC_TOOLS_LMC_STEPEXCHANGES_H
