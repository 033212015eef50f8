// `lmc check`: does a mesh train the same model as one rank?
//
// Compiles a small model of the same architecture for the mesh and for one
// rank, runs both with the lmrun that lies beside lmc, ranks as threads, on the
// same random tokens and from the same first weights, and compares the losses
// of a few steps and every gradient of the first. Where the first loss differs
// already, it looks for the layer, with zeros for more and more of the last
// ones. What may differ is the order
// of float32 sums: losses within 1e-5 of each other, a gradient within 1e-5 of
// its norm and 1e-7 of all gradients' norm.
#ifndef LMC_TOOLS_LMC_CHECK_H
#define LMC_TOOLS_LMC_CHECK_H

#include "tools/lmc/Compile.h"

namespace lmc {

// Returns the exit status: 0 they agree, 1 they do not; has printed what
// differs. Plans, losses and gradients stay in `keep` if it is not empty.
int check(const CompileSettings &settings, const std::string &keep);

} // namespace lmc

#endif // LMC_TOOLS_LMC_CHECK_H
