// Runs of plans for `lmc check`: with the lmrun that lies beside lmc, ranks as
// threads, on random tokens.
#ifndef LMC_TOOLS_LMC_CHECKRUN_H
#define LMC_TOOLS_LMC_CHECKRUN_H

#include "runtime/base/Status.h"
#include "runtime/plan/plan.pb.h"

namespace lmc {

// One of the two that are compared.
struct Side {
  std::string plan;
  int64_t ranks = 1;
};

// Enough for so many steps, the same ones for both sides.
runtime::Status writeTokens(const std::string &path, const plan::Plan &plan,
                            int steps);

// The losses of the steps. Files that the run writes begin with `stem`; `more`
// are flags of lmrun.
runtime::StatusOr<std::vector<double>>
train(const Side &side, const std::string &data, int steps,
      const std::string &stem, const std::vector<std::string> &more);

} // namespace lmc

#endif // LMC_TOOLS_LMC_CHECKRUN_H
