// Between states in memory and tensors in files.
//
// A state's boxes say which file tensor fills which rectangle of the global
// tensor (plan.proto, State.Box). A file tensor of file_shape is seen as
// split_shape, its dims are permuted, and the result, in row-major order,
// fills the box. Example: a fused query-key-value weight [D, 3*H*K] in the
// file, kept as [D, H, 3, K] in memory so that heads can be cut:
//   split [D, 3, H, K], permutation [0, 2, 1, 3], box [D, H, 3, K].
//
// A state without boxes is stored under its own name, as it is.
#ifndef LMC_RUNTIME_WEIGHTS_BOXES_H
#define LMC_RUNTIME_WEIGHTS_BOXES_H

#include "runtime/weights/LocalTensor.h"
#include "runtime/weights/Safetensors.h"

namespace lmc::runtime {

/// One box with its strides worked out.
struct BoxMap {
  std::vector<std::string> names; ///< alternatives; the first is written
  std::vector<int64_t> fileShape;
  std::vector<int64_t> boxShape, boxOffset;
  /// The dims of the file tensor in box order, and the file's stride of each.
  std::vector<int64_t> permutedShape, permutedStride;
  int64_t elements = 0;
};

/// The boxes of a state, with `suffix` behind each name. A moment or
/// accumulator has those of its parameter.
std::vector<BoxMap> boxesOf(const plan::Plan &plan, const plan::State &state,
                            const std::string &suffix);

/// Calls visit(localIndex, fileIndex, fileStride, count) for the elements of
/// the local range [begin, end) that lie in the box: local elements
/// localIndex + i are file elements fileIndex + i * fileStride.
template <typename Visit>
void forEachBoxPiece(const LocalTensor &tensor, const BoxMap &box,
                     int64_t begin, int64_t end, Visit visit) {
  size_t numDims = tensor.globalShape.size();
  tensor.forEachRun(
      begin, end, [&](int64_t local, int64_t global, int64_t count) {
        // Clip the run, which lies in the last dim, to the box.
        int64_t index = 0;
        if (numDims > 0) {
          int64_t rest = global, stride = 1;
          for (size_t d = numDims; d-- > 0;) {
            int64_t coordinate =
                rest % tensor.globalShape[d] - box.boxOffset[d];
            rest /= tensor.globalShape[d];
            if (d + 1 == numDims) {
              int64_t skip = std::max<int64_t>(0, -coordinate);
              count = std::min(count, box.boxShape[d] - coordinate) - skip;
              local += skip;
              coordinate += skip;
            }
            if (count <= 0 || coordinate < 0 || coordinate >= box.boxShape[d])
              return;
            index += coordinate * stride;
            stride *= box.boxShape[d];
          }
        }
        // [index, index + count) in box order, to pieces in the file.
        size_t fileDims = box.permutedShape.size();
        while (count > 0) {
          int64_t rest = index, file = 0, piece = 1, stride = 1;
          for (size_t d = fileDims; d-- > 0;) {
            int64_t coordinate = rest % box.permutedShape[d];
            rest /= box.permutedShape[d];
            file += coordinate * box.permutedStride[d];
            if (d + 1 == fileDims) {
              piece = std::min(count, box.permutedShape[d] - coordinate);
              stride = box.permutedStride[d];
            }
          }
          visit(local, file, stride, piece);
          local += piece;
          index += piece;
          count -= piece;
        }
      });
}

/// Reads every PARAMETER from the files. First all names and shapes are
/// checked: WrongInput with a note for each missing or misshapen tensor.
Status loadParameters(Executor &executor, const WeightFiles &weights);

/// Adds a sentence for every tensor of the state that is missing or unfit.
void checkState(const plan::Plan &plan, const plan::State &state,
                const WeightFiles &weights, const std::string &suffix,
                std::vector<std::string> &problems);
/// Reads one state; its tensors are there (checked before).
void loadState(Executor &executor, const plan::State &state,
               const WeightFiles &weights, const std::string &suffix);

/// Whether the rank at these coordinates is the one whose part of the state is
/// stored: the first of those with the same part.
bool ownsPart(const plan::Plan &plan, const std::vector<int64_t> &coordinates,
              const plan::State &state);

/// Copies a rank's part of a state into whole file tensors, one buffer per
/// box, converting to `dtype` and multiplying by `scale`; on `device`'s cores.
void storePart(Device &device, const LocalTensor &part,
               const std::vector<BoxMap> &boxes, DataType dtype, double scale,
               const std::vector<std::byte *> &buffers);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_WEIGHTS_BOXES_H
