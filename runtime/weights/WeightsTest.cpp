// Safetensors are read strictly, JSON within its depth, and boxes map states
// to files and back on any mesh.
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/weights/Boxes.h"
#include "runtime/weights/Json.h"
#include "runtime/weights/ModelConfig.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <random>

using namespace lmc;
using namespace lmc::runtime;
namespace fs = std::filesystem;

TEST(Json, RefusesDepthDuplicatesAndRubbish) {
  EXPECT_TRUE(parseJson(R"({"a": [1, {"b": null}], "c": "d"})", "x").ok());
  std::string deep(100000, '[');
  for (std::string text :
       {deep, std::string(65, '[') + std::string(65, ']'), std::string("{"),
        std::string(R"({"a": 1, "a": 2})"), std::string("1 2"), std::string(),
        std::string("{\"a\": \xff\"}")}) {
    auto json = parseJson(text, "x");
    ASSERT_FALSE(json.ok()) << text.substr(0, 80);
    EXPECT_EQ(json.status().exitStatus(), 4);
  }
  EXPECT_TRUE(parseJson(std::string(64, '[') + std::string(64, ']'), "x").ok());
}

static std::string file(const std::string &header, const std::string &data) {
  uint64_t size = header.size();
  return std::string(reinterpret_cast<const char *>(&size), 8) + header + data;
}

TEST(Safetensors, RefusesWhatIsNotExactlyTheFormat) {
  const std::string a =
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  ASSERT_TRUE(parseSafetensors(file("{" + a + "}", "01234567"), "f").ok());
  ASSERT_TRUE(parseSafetensors(file("{" + a + "}   ", "01234567"), "f").ok());
  ASSERT_TRUE(
      parseSafetensors(
          file("{" + a + R"(,"b":{"dtype":"BOOL","shape":[],"data_offsets":)" +
                   "[8,9]}" + R"(,"__metadata__":{"format":"pt"}})",
               "012345678"),
          "f")
          .ok());
  std::pair<const char *, std::string> bad[] = {
      {"overlap",
       file("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":)" +
                "[4,8]}}",
            "01234567")},
      {"hole",
       file("{" + a + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":)" +
                "[9,10]}}",
            "0123456789")},
      {"behind", file("{" + a + "}", "012345678")},
      {"of 7", file("{" + a + "}", "0123456")},
      {"does not take",
       file(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
            "01234567")},
      {"does not take",
       file(R"({"a":{"dtype":"F32","shape":[4611686018427387904,8],)"
            R"("data_offsets":[0,0]}})",
            "")},
      {"no size", file(R"({"a":{"dtype":"F32","shape":[9223372036854775808],)"
                       R"("data_offsets":[0,0]}})",
                       "")},
      {"of 0", file(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":)"
                    "[18446744073709551615,18446744073709551615]}}",
                    "")},
      {"no size", file(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":)"
                       "[0,0]}}",
                       "")},
      {"unknown dtype",
       file(R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}})", "0")},
      {"twice", file("{" + a + "," + a + "}", "01234567")},
      {"not just dtype",
       file(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})",
            "0")},
      {"no string", file(R"({"__metadata__":{"a":1}})", "")},
      {"no JSON object", file("[]", "")},
      {"nesting", file("{\"a\":" + std::string(5000, '['), "")},
      {"its header of", std::string(8, '\xff')},
      {"bytes", "123"},
  };
  for (const auto &[message, bytes] : bad) {
    auto tensors = parseSafetensors(bytes, "f");
    ASSERT_FALSE(tensors.ok()) << message;
    EXPECT_EQ(tensors.status().exitStatus(), 4);
    EXPECT_NE(tensors.status().message().find(message), std::string::npos)
        << "wanted: " << message << "\ngot: " << tensors.status().message();
  }
}

TEST(Safetensors, MutationsNeverCrash) {
  std::string good =
      file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
           R"("b":{"dtype":"U8","shape":[1,2],"data_offsets":[8,10]}})",
           "0123456789");
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = good;
    for (int n = 1 + int(random() % 4); n > 0; --n)
      damaged[random() % damaged.size()] = char(random());
    (void)parseSafetensors(damaged, "f").ok();
  }
}

class WeightsTest : public testing::Test {
protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "lmcXXXXXX").string();
    folder = ::mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(folder); }
  std::string path(const std::string &name) { return folder / name; }
  fs::path folder;
};

TEST_F(WeightsTest, ShardedFoldersTrustTheWeightMapAlone) {
  std::vector<float> data = {1, 2, 3};
  ASSERT_TRUE(writeSafetensors(path("s1.safetensors"),
                               {{"a", DataType::F32, {3}, data.data()}})
                  .ok());
  ASSERT_TRUE(writeSafetensors(path("s2.safetensors"),
                               {{"b", DataType::F32, {1, 2}, data.data()}})
                  .ok());
  auto open = [&](const std::string &map) {
    EXPECT_TRUE(writeWholeFile(path("model.safetensors.index.json"),
                               "{\"weight_map\": {" + map + "}}")
                    .ok());
    return WeightFiles::open(path("."));
  };
  auto both = open(R"("a": "s1.safetensors", "b": "s2.safetensors")");
  ASSERT_TRUE(both.ok()) << both.status().toString();
  EXPECT_EQ(both->find("b")->shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(both->find("c"), nullptr);
  EXPECT_EQ(open(R"("a": "s2.safetensors")").status().exitStatus(), 4);
  EXPECT_EQ(open(R"("a": "../s1.safetensors")").status().exitStatus(), 4);
  EXPECT_EQ(open(R"("a": "absent.safetensors")").status().exitStatus(), 2);
}

// A folder of checkpoints stands for the latest; without that it names them.
TEST_F(WeightsTest, FoldersWithoutWeightsNameThoseInThemThatHaveSome) {
  std::vector<float> data = {1};
  for (std::string step : {"step_20", "step_100", "step_3"}) {
    fs::create_directory(path(step));
    ASSERT_TRUE(writeSafetensors(path(step + "/model.safetensors"),
                                 {{"a", DataType::F32, {1}, data.data()}})
                    .ok());
  }
  fs::create_directory(path("logs"));
  const std::string help = "  help: give one of the folders in " +
                           folder.string() +
                           " that do: step_3, step_20, step_100";
  auto none = WeightFiles::open(folder);
  ASSERT_EQ(none.status().exitStatus(), 2);
  EXPECT_EQ(none.status().lines(), std::vector<std::string>{help});
  ASSERT_TRUE(writeWholeFile(path("latest"), "step_7\n").ok());
  auto gone = WeightFiles::open(folder);
  ASSERT_EQ(gone.status().exitStatus(), 2);
  EXPECT_EQ(gone.status().lines(), std::vector<std::string>{help});
  ASSERT_TRUE(writeWholeFile(path("latest"), "step_3\n").ok());
  EXPECT_TRUE(WeightFiles::open(folder).ok());
  EXPECT_TRUE(WeightFiles::open(path("logs")).status().lines().empty());
}

/// A parameter [D, H, 3, K] of a file tensor [D, 3*H*K], H cut over tp.
static plan::Plan fusedPlan(int64_t tp) {
  const int64_t D = 4, H = 6, K = 5;
  plan::Plan p;
  auto *axis = p.mutable_mesh()->add_axes();
  axis->set_name("tp");
  axis->set_size(tp);
  auto *symbol = p.add_symbols();
  symbol->set_kind(plan::Symbol::COORDINATE);
  symbol->set_maximum(tp - 1);
  int64_t localH = (H + tp - 1) / tp;
  int64_t bytes = (D * localH * 3 * K * 4 + 63) / 64 * 64;
  auto *allocation = p.add_allocations();
  allocation->set_memory(plan::DEVICE);
  allocation->set_bytes(bytes);
  auto *state = p.add_states();
  state->set_name("qkv");
  state->set_kind(plan::State::PARAMETER);
  state->set_dtype(plan::F32);
  for (int64_t dim : {D, H, int64_t(3), K})
    state->add_global_shape(dim);
  for (int64_t dim : {D, localH, int64_t(3), K})
    state->add_local_shape(dim);
  for (int d = 0; d < 4; ++d)
    state->add_local_offset();
  auto *term = state->mutable_local_offset(1)->add_terms();
  term->set_symbol(0);
  term->set_coefficient(localH);
  state->mutable_slice()->set_bytes(bytes);
  state->mutable_initialization()->set_kind(
      plan::State::Initialization::NORMAL);
  state->mutable_initialization()->set_scale(2);
  state->mutable_initialization()->set_id(3);
  auto *box = state->add_boxes();
  box->add_names("c_attn.weight");
  box->add_names("transformer.c_attn.weight");
  box->add_file_shape(D);
  box->add_file_shape(3 * H * K);
  for (int64_t dim : {D, int64_t(3), H, K})
    box->add_split_shape(dim);
  for (int64_t dim : {0, 2, 1, 3})
    box->add_permutation(dim);
  for (int64_t dim : {D, H, int64_t(3), K})
    box->add_box_shape(dim);
  for (int d = 0; d < 4; ++d)
    box->add_box_offset(0);
  return p;
}

struct RankState {
  std::unique_ptr<CpuDevice> device;
  std::unique_ptr<Executor> executor;
};
static RankState makeRank(const plan::Plan &plan, int64_t rank) {
  RankState state;
  auto device = CpuDevice::create({});
  EXPECT_TRUE(device.ok());
  state.device = *std::move(device);
  auto executor = Executor::create(plan, *state.device, nullptr, rank, {});
  EXPECT_TRUE(executor.ok()) << executor.status().toString();
  state.executor = *std::move(executor);
  return state;
}

/// Every element of the whole file tensor as the ranks hold it together.
static std::vector<float> gather(const plan::Plan &plan, int64_t tp,
                                 const std::function<void(Executor &)> &fill) {
  std::vector<float> whole(4 * 90, NAN);
  for (int64_t rank = 0; rank < tp; ++rank) {
    RankState state = makeRank(plan, rank);
    fill(*state.executor);
    if (ownsPart(plan, state.executor->coordinates(), plan.states(0)))
      storePart(*state.device, LocalTensor::of(*state.executor, plan.states(0)),
                boxesOf(plan, plan.states(0), ""), DataType::F32, 1.0,
                {reinterpret_cast<std::byte *>(whole.data())});
  }
  return whole;
}

// 4 ranks hold 2 heads each of 6: the last rank has padding only.
TEST_F(WeightsTest, LoadsAndStoresFusedWeightsOnAnyMesh) {
  std::vector<float> data(4 * 90);
  for (size_t i = 0; i < data.size(); ++i)
    data[i] = float(i) + 0.5f;
  for (const char *name : {"c_attn.weight", "transformer.c_attn.weight"}) {
    ASSERT_TRUE(writeSafetensors(path("model.safetensors"),
                                 {{name, DataType::F32, {4, 90}, data.data()}})
                    .ok());
    auto weights = WeightFiles::open(path("."));
    ASSERT_TRUE(weights.ok());
    for (int64_t tp : {1, 2, 3, 4})
      EXPECT_EQ(gather(fusedPlan(tp), tp,
                       [&](Executor &executor) {
                         Status status = loadParameters(executor, *weights);
                         EXPECT_TRUE(status.ok()) << status.toString();
                       }),
                data)
          << "tp=" << tp;
  }
  // Head 4, value, of row 2 stands where the file's layout says.
  plan::Plan plan = fusedPlan(1);
  RankState one = makeRank(plan, 0);
  auto weights = WeightFiles::open(path("."));
  ASSERT_TRUE(loadParameters(*one.executor, *weights).ok());
  float element;
  std::memcpy(&element,
              one.device->base(0) + 4 * (((2 * 6 + 4) * 3 + 2) * 5 + 1), 4);
  EXPECT_EQ(element, data[2 * 90 + 2 * 30 + 4 * 5 + 1]);
}

TEST_F(WeightsTest, FirstWeightsDoNotDependOnTheMesh) {
  auto fill = [](Executor &executor) {
    initializeState(executor, executor.plan().states(0), 42);
  };
  std::vector<float> one = gather(fusedPlan(1), 1, fill);
  for (int64_t tp : {2, 3, 4})
    EXPECT_EQ(gather(fusedPlan(tp), tp, fill), one);
  double sum = 0, squares = 0;
  for (float value : one) {
    sum += value;
    squares += double(value) * value;
  }
  EXPECT_NEAR(sum / 360, 0, 0.35); // 3 standard errors
  EXPECT_NEAR(std::sqrt(squares / 360), 2, 0.25);
}

TEST_F(WeightsTest, NamesEveryMissingOrMisshapenTensor) {
  std::vector<float> data(360);
  plan::Plan plan = fusedPlan(1);
  *plan.add_states() = plan.states(0);
  plan.mutable_states(1)->set_name("other");
  plan.mutable_states(1)->mutable_boxes(0)->set_names(0, "other.weight");
  plan.mutable_states(1)->mutable_boxes(0)->mutable_names()->RemoveLast();
  ASSERT_TRUE(
      writeSafetensors(path("model.safetensors"),
                       {{"c_attn.weight", DataType::F32, {90, 4}, data.data()}})
          .ok());
  auto weights = WeightFiles::open(path("."));
  ASSERT_TRUE(weights.ok());
  RankState rank = makeRank(plan, 0);
  Status status = loadParameters(*rank.executor, *weights);
  EXPECT_EQ(status.exitStatus(), 2);
  for (const char *message :
       {"2 tensors", "c_attn.weight has shape [90, 4], the model wants [4, 90]",
        "other.weight is missing"})
    EXPECT_NE(status.toString().find(message), std::string::npos)
        << status.toString();
}

// What is in no shape is in config.json; what is no mathematics may differ.
TEST_F(WeightsTest, TheConfigBesideTheWeightsIsThatOfThePlan) {
  struct Case {
    const char *found, *message;
  };
  std::string wanted =
      R"({"n_head": 4, "n_inner": null, "rope_scaling": null, "n_ctx": 16,
          "attn_pdrop": 0.1, "eos_token_id": 3, "use_cache": true})";
  plan::Plan plan;
  plan.set_model_config(wanted);
  ASSERT_TRUE(writeSafetensors(path("model.safetensors"), {}).ok());
  auto weights = WeightFiles::open(path("."));
  ASSERT_TRUE(weights.ok()) << weights.status().toString();
  EXPECT_TRUE(checkModelConfig(plan, *weights).ok()); // there is none
  for (const Case &one : {
           Case{R"({"n_head": 4.0, "n_inner": 64, "n_ctx": 8,
                    "attn_pdrop": 0, "eos_token_id": 5, "more": 1})",
                ""},
           Case{R"({"n_head": 2})", "n_head is 2, the plan's is 4"},
           Case{R"({"n_head": 4, "rope_scaling": {"factor": 2}})",
                R"(rope_scaling is {"factor":2}, the plan's is null)"},
           Case{R"({"n_head)", "no valid JSON"},
       }) {
    ASSERT_TRUE(writeWholeFile(path("config.json"), one.found).ok());
    Status status = checkModelConfig(plan, *weights);
    EXPECT_EQ(status.ok(), !*one.message) << one.found;
    if (!status.ok())
      EXPECT_NE(status.toString().find(one.message), std::string::npos)
          << status.toString();
  }
}
