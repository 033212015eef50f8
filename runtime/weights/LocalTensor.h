// The part of a global tensor that lies on this rank, and walks over it.
//
// A state's local box [offset, offset + shape) may reach beyond the global
// shape; what does is padding: zero in memory, in no file. Of the local tensor,
// row-major, the rank holds the elements [first, end): all of them, or those in
// its piece of a bucket.
#ifndef LMC_RUNTIME_WEIGHTS_LOCALTENSOR_H
#define LMC_RUNTIME_WEIGHTS_LOCALTENSOR_H

#include "runtime/base/DataType.h"
#include "runtime/exec/Executor.h"

#include <algorithm>
#include <cstring>

namespace lmc::runtime {

struct LocalTensor {
  const plan::State *state = nullptr;
  DataType dtype = DataType::F32;
  int64_t elementBytes = 4;
  std::vector<int64_t> globalShape, localShape, offset;
  int64_t first = 0, end = 1;
  std::byte *data = nullptr; ///< of element `first`

  static LocalTensor of(Executor &executor, const plan::State &state);
  /// The part of the rank at the given coordinates; `data` is not set.
  static LocalTensor of(const plan::Plan &plan, const plan::State &state,
                        const std::vector<int64_t> &coordinates);
  int64_t elements() const { return end - first; }
  int64_t bytes() const { return elements() * elementBytes; }
  /// Of an element that the rank holds.
  std::byte *at(int64_t localIndex) const {
    return data + (localIndex - first) * elementBytes;
  }

  /// Calls visit(localIndex, globalIndex, count) for every run of elements of
  /// the local range [begin, end) that is contiguous in both the local and the
  /// global tensor (row-major), without padding.
  template <typename Visit>
  void forEachRun(int64_t begin, int64_t end, Visit visit) const {
    int64_t row = localShape.empty() ? 1 : localShape.back();
    if (row == 0)
      return;
    while (begin < end) {
      int64_t column = begin % row;
      int64_t count = std::min(end - begin, row - column);
      int64_t rest = begin / row;
      int64_t global = 0, stride = 1;
      bool inside = true;
      if (!localShape.empty()) {
        size_t last = localShape.size() - 1;
        int64_t first = offset[last] + column;
        int64_t valid = std::min(count, globalShape[last] - first);
        inside = valid > 0;
        global = first;
        stride = globalShape[last];
        for (size_t d = last; inside && d-- > 0;) {
          int64_t index = offset[d] + rest % localShape[d];
          rest /= localShape[d];
          inside = index < globalShape[d];
          global += index * stride;
          stride *= globalShape[d];
        }
        if (inside)
          visit(begin, global, valid);
      } else {
        visit(begin, int64_t(0), int64_t(1));
      }
      begin += count;
    }
  }
};

/// The bytes of a tensor that pass through host memory at a time.
inline constexpr int64_t hostPieceBytes = int64_t(64) << 20;

/// Calls work(piece) for one piece of the tensor after the other, each with its
/// bytes in the same buffer.
template <typename Work>
void forHostPieces(const LocalTensor &tensor, Work work) {
  int64_t step = std::max<int64_t>(1, hostPieceBytes / tensor.elementBytes);
  std::vector<std::byte> buffer(
      size_t(std::min(step, tensor.elements()) * tensor.elementBytes));
  for (int64_t first = tensor.first; first < tensor.end; first += step) {
    LocalTensor piece = tensor;
    piece.first = first;
    piece.end = std::min(first + step, tensor.end);
    piece.data = buffer.data();
    work(piece);
  }
}

/// Runs work(part) where the host can read a tensor's bytes: once and in place,
/// or, where device memory is out of the host's reach, for one piece after the
/// other.
template <typename Work>
void readOnHost(Device &device, const LocalTensor &tensor, Work work) {
  if (device.hostAccessible())
    return work(tensor);
  forHostPieces(tensor, [&](const LocalTensor &piece) {
    device.read(tensor.at(piece.first), piece.data, piece.bytes());
    work(piece);
  });
}

/// The same where the host fills them: they are zero before.
template <typename Work>
void writeOnHost(Device &device, const LocalTensor &tensor, Work work) {
  if (device.hostAccessible()) {
    device.fillZero(tensor.data, tensor.bytes());
    return work(tensor);
  }
  forHostPieces(tensor, [&](const LocalTensor &piece) {
    std::memset(piece.data, 0, size_t(piece.bytes()));
    work(piece);
    device.write(tensor.at(piece.first), piece.data, piece.bytes());
  });
}

/// Fills a PARAMETER as its Initialization says: a function of (seed, id,
/// global element index), so every mesh starts from the same weights.
void initializeState(Executor &executor, const plan::State &state,
                     uint64_t seed);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_WEIGHTS_LOCALTENSOR_H
