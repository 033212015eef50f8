// Does the plan hang together? Run on every plan after reading and before
// anything is allocated.
//
// Checks every index, offset, size, name and count against what it refers to:
// slices lie within their allocations for all values of their symbols, kernels
// get the operands and integers that they want, ports and states have the
// bytes of their shapes, schedules call programs that are there, collectives
// name axes that are there. What it accepts cannot make the runtime read or
// write outside of its allocations, save for what the native kernels do
// themselves. It trusts nothing, allocates little and never crashes: the
// fuzzer runs it.
//
// It does not prove the order of reads and writes (the compiler's verifier
// does), and does not look into kernel code.
#ifndef LMC_RUNTIME_PLAN_PLANCHECK_H
#define LMC_RUNTIME_PLAN_PLANCHECK_H

#include "runtime/base/Status.h"
#include "runtime/plan/plan.pb.h"

namespace lmc::runtime {

/// Corrupt on the first thing that does not hold, with its place and numbers.
Status checkPlan(const plan::Plan &plan);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_PLANCHECK_H
