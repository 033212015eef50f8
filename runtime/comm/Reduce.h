// The sum that every communicator forms: over the members of a group in their
// order, in float32 (float64 for F64, the type itself for integers), rounded
// once. One function, so that the bits are the same whichever way they came.
#ifndef LMC_RUNTIME_COMM_REDUCE_H
#define LMC_RUNTIME_COMM_REDUCE_H

#include "runtime/comm/Communicator.h"

namespace lmc::runtime {

/// target[i] = reduction over the sources, in order, of source[i] for i in
/// [0, elements). `target` may be one of the sources, else they do not
/// overlap.
void reduceInOrder(DataType dtype, Reduction reduction,
                   const std::byte *const *sources, size_t numSources,
                   int64_t elements, std::byte *target);

/// Bytes of one element of a call.
int64_t elementBytes(const CollectiveCall &call);

/// A number that differs, almost surely, between calls that must not meet.
uint32_t signatureOf(const CollectiveCall &call, size_t members);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_REDUCE_H
