// Rotary tables: Su et al., "RoFormer"; pair i of r/2 turns by
// theta^(-2i/r) per position. Scalings change these frequencies.
#include "frontend/Rotary.h"

#include "frontend/ModelSpec.pb.h"

#include <cmath>

namespace lmc::frontend {

// Llama 3.1: pairs that turn more than `high` times within the original
// context keep their frequency, those that turn less than `low` times are
// slowed by `factor`, between the two the frequency is blended.
static double scaleLlama3(const Llama3Scaling &scaling, double frequency) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  double turns = scaling.original_max_positions() * frequency / kTwoPi;
  if (turns > scaling.high_freq_factor())
    return frequency;
  if (turns < scaling.low_freq_factor())
    return frequency / scaling.factor();
  double keep = (turns - scaling.low_freq_factor()) /
                (scaling.high_freq_factor() - scaling.low_freq_factor());
  return (1 - keep) * frequency / scaling.factor() + keep * frequency;
}

std::vector<double> rotaryFrequencies(const Rotary &rotary, int64_t width) {
  std::vector<double> frequencies(width / 2);
  for (int64_t i = 0; i < width / 2; ++i) {
    double frequency =
        std::pow(rotary.theta(), -2.0 * static_cast<double>(i) / width);
    if (rotary.has_linear_scaling())
      frequency /= rotary.linear_scaling().factor();
    if (rotary.has_llama3_scaling())
      frequency = scaleLlama3(rotary.llama3_scaling(), frequency);
    frequencies[i] = frequency;
  }
  return frequencies;
}

std::vector<float> rotaryTable(const Rotary &rotary, int64_t positions,
                               int64_t width) {
  std::vector<double> frequencies = rotaryFrequencies(rotary, width);
  std::vector<float> table(positions * width);
  for (int64_t p = 0; p < positions; ++p) {
    float *row = table.data() + p * width;
    for (int64_t i = 0; i < width / 2; ++i) {
      double angle = static_cast<double>(p) * frequencies[i];
      row[i] = static_cast<float>(std::cos(angle));
      row[width / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

} // namespace lmc::frontend
