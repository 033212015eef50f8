// Fuzz target of the readers of model descriptions: whatever the bytes, they
// end in a ModelSpec or in findings. The first byte chooses the reader.
//
//   clang++ -fsanitize=fuzzer,address FrontendFuzz.cpp <LmcFrontendSpec> \
//       -lprotobuf
#include "frontend/Families.h"
#include "frontend/HuggingFace.h"
#include "frontend/Rotary.h"
#include "frontend/ShardingSpec.pb.h"
#include "frontend/SpecCheck.h"
#include "frontend/SpecText.h"
#include "frontend/TrainSpec.pb.h"

#include <algorithm>

using namespace lmc::frontend;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  std::string_view text(reinterpret_cast<const char *>(data) + 1, size - 1);
  SourceMap sources;
  Findings findings;
  ModelSpec spec;
  TrainSpec training;
  ShardingSpec sharding;
  switch (data[0] % 4) {
  case 0:
    parseSpecText(text, spec, sources, findings);
    break;
  case 1:
    readHuggingFaceConfig(text, spec, sources, data[0] & 128, findings);
    break;
  case 2:
    parseSpecText(text, training, sources, findings);
    return 0;
  default:
    if (parseSpecText(text, sharding, sources, findings))
      checkShardingSpec(sharding, sources, findings);
    return 0;
  }
  if (findings.hasErrors() || !checkSpec(spec, sources, findings))
    return 0;
  findFamily(spec);
  if (spec.positions().has_rotary())
    for (const Block &block : spec.block())
      for (const Layer &layer : block.layer())
        if (layer.has_attention())
          rotaryTable(
              spec.positions().rotary(),
              std::min<int64_t>(spec.max_positions(), 4),
              std::min<int64_t>(rotaryWidth(spec.positions().rotary(),
                                            layer.attention().head_dim()),
                                1 << 12));
  return 0;
}
