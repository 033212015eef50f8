// The learning rate of a step: linear warm-up from zero to the peak, then
// constant, linear or cosine decay to the minimum.
//
//   peak       ______
//             /      \___
//   minimum  /           \____
//           0  warm-up    decaySteps
#ifndef LMC_RUNTIME_TRAIN_LEARNINGRATE_H
#define LMC_RUNTIME_TRAIN_LEARNINGRATE_H

#include "runtime/train/TrainOptions.h"

#include <algorithm>
#include <cmath>

namespace lmc::runtime {

/// `step` counts from 1; the last warm-up step has the peak.
inline double learningRate(const TrainOptions &options, double peak,
                           int64_t step) {
  if (step < options.warmupSteps)
    return peak * double(step) / double(options.warmupSteps);
  if (options.decay == Decay::Constant)
    return peak;
  int64_t end = options.decaySteps > 0 ? options.decaySteps : options.steps;
  double length = double(std::max<int64_t>(1, end - options.warmupSteps));
  double progress =
      std::clamp(double(step - options.warmupSteps) / length, 0.0, 1.0);
  double left = options.decay == Decay::Linear
                    ? 1.0 - progress
                    : 0.5 * (1.0 + std::cos(M_PI * progress));
  return options.minLearningRate + (peak - options.minLearningRate) * left;
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_LEARNINGRATE_H
