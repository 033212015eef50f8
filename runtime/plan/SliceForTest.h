// What tests that build plans by hand say often.
#ifndef LMC_RUNTIME_PLAN_SLICEFORTEST_H
#define LMC_RUNTIME_PLAN_SLICEFORTEST_H

#include "runtime/plan/plan.pb.h"

namespace lmc::runtime {

inline void setSlice(plan::Slice *slice, uint32_t allocation, int64_t offset,
                     int64_t bytes) {
  slice->set_allocation(allocation);
  slice->mutable_offset()->set_constant(offset);
  slice->set_bytes(bytes);
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_SLICEFORTEST_H
