// Training the bigram plan from data on disk: the loss falls, ranks and
// micro-batches do not change it, gradients are right, and bad input is told.
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/train/Batches.h"
#include "runtime/train/JobFacts.h"
#include "runtime/train/LearningRate.h"
#include "runtime/train/TrainFixtureForTest.h"
#include "runtime/weights/Safetensors.h"

#include <cmath>
#include <random>

using namespace lmc;
using namespace lmc::runtime;

class TrainTest : public TrainFixture {};

TEST_F(TrainTest, LossFallsAndMetricsAreWritten) {
  options.evalEvery = 6;
  options.heldOutFraction = 0.1;
  options.warmupSteps = 3;
  std::vector<double> losses = train(bigram(4, 1, 1));
  ASSERT_EQ(losses.size(), 12u);
  EXPECT_NEAR(losses[0], std::log(256.0), 0.01);
  EXPECT_LT(losses.back(), losses[0]);
  std::vector<nlohmann::json> lines = metrics();
  ASSERT_EQ(lines.size(), 14u);
  for (const char *key :
       {"step", "loss", "grad_norm", "lr", "tokens_per_second", "step_ms"})
    EXPECT_TRUE(lines[0].contains(key)) << key;
  EXPECT_NEAR(lines[0]["lr"].get<double>(), 0.05 / 3, 1e-9);
  EXPECT_TRUE(lines[6].contains("eval_loss"));
  EXPECT_TRUE(lines[13].contains("eval_loss"));
}

// Ranks compare what they are about to do before they begin: a plan that
// differs in anything is found, and the message names ranks and values.
TEST_F(TrainTest, AThousandAlteredPlansAreRefused) {
  plan::Plan plan = bigram(1, 2, 2);
  plan.clear_code(); // its bytes would be nearly all that is altered
  auto data = TokenData::open(path("data"));
  ASSERT_TRUE(data.ok());
  std::string bytes = plan.SerializeAsString();
  Hello first{0, {}, factsOf(plan, options, *data), ""};
  Hello second = first;
  second.rank = 1;
  EXPECT_TRUE(compareFacts({first, second}).ok());
  std::mt19937 random(1);
  for (int altered = 0; altered < 1000;) {
    std::string other = bytes;
    other[random() % other.size()] ^= char(1 << random() % 8);
    plan::Plan changed;
    if (!changed.ParseFromString(other) || changed.SerializeAsString() == bytes)
      continue; // no plan, or the same one
    ++altered;
    second.facts = factsOf(changed, options, *data);
    Status status = compareFacts({first, second});
    ASSERT_FALSE(status.ok()) << altered;
    EXPECT_EQ(status.exitStatus(), 2);
    EXPECT_NE(status.toString().find("on rank 1"), std::string::npos);
  }
  second.facts = first.facts;
  options.scalars = {{"lr", 0.5}};
  second.facts = factsOf(plan, options, *data);
  EXPECT_NE(
      compareFacts({first, second}).toString().find("--set lr: 0.5 on rank 1"),
      std::string::npos);
}

// The same samples in the same step, however they are spread.
TEST_F(TrainTest, RanksAndMicroBatchesTrainTheSameModel) {
  std::vector<double> one = train(bigram(4, 1, 1));
  std::vector<double> microBatches = train(bigram(1, 4, 1));
  EXPECT_EQ(microBatches, one); // this kernel adds tokens in order
  options.ranks = 2;
  std::vector<double> ranks = train(bigram(1, 2, 2));
  ASSERT_EQ(ranks.size(), one.size());
  for (size_t i = 0; i < one.size(); ++i)
    EXPECT_NEAR(ranks[i], one[i], 1e-5 * one[i]) << i;
  options.ranks = 4;
  options.shuffle = true;
  std::vector<double> shuffled = train(bigram(1, 1, 4));
  EXPECT_NE(shuffled, one);
  EXPECT_EQ(train(bigram(1, 1, 4)), shuffled);
}

TEST_F(TrainTest, DumpedGradientsAreTheGradientsOfTheMeanLoss) {
  options.steps = 1;
  options.dumpGradients = path("gradients.safetensors");
  train(bigram(4, 1, 1));
  auto file = WeightFiles::openFile(options.dumpGradients);
  ASSERT_TRUE(file.ok()) << file.status().toString();
  const TensorView *view = file->find("bigram.weight");
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->shape, (std::vector<int64_t>{256, 256}));
  // Softmax minus one-hot: a token's gradients sum to zero, and each seen
  // target gets its share. The file is transposed: [next, token].
  std::vector<float> gradient(256 * 256);
  std::memcpy(gradient.data(), view->data.data(), view->data.size());
  double total = 0, negative = 0;
  for (int token = 0; token < 256; ++token) {
    double sum = 0;
    for (int next = 0; next < 256; ++next) {
      float g = gradient[size_t(next * 256 + token)];
      sum += g;
      negative += g < 0 ? g : 0;
      total += std::fabs(g);
    }
    EXPECT_NEAR(sum, 0, 1e-6);
  }
  EXPECT_NEAR(negative, -0.99, 0.01);
  EXPECT_NEAR(total, 2 * 0.99, 0.02);
  // Two ranks dump the same file within rounding.
  options.ranks = 2;
  train(bigram(1, 2, 2));
  auto two = WeightFiles::openFile(options.dumpGradients);
  ASSERT_TRUE(two.ok());
  for (size_t i = 0; i < gradient.size(); ++i) {
    float other;
    std::memcpy(&other, two->find("bigram.weight")->data.data() + 4 * i, 4);
    EXPECT_NEAR(other, gradient[i], 1e-7);
  }
}

TEST_F(TrainTest, PositionsAndSegmentsBeginAnewInEveryDocument) {
  TokenFileContents contents;
  contents.tokens.assign(100, 1);
  contents.documentEnds = {5, 21, 100};
  contents.mask.assign(100, true);
  contents.mask[3] = false;
  ASSERT_TRUE(writeWholeFile(path("data"), encodeTokenFile(contents)).ok());
  plan::Plan plan = bigram(2, 1, 1);
  for (const char *name : {"positions", "segments"}) {
    *plan.add_allocations() = plan.allocations(0);
    plan::Port *port = plan.add_inputs();
    *port = plan.inputs(0);
    port->set_name(name);
    port->mutable_slice()->set_allocation(
        uint32_t(plan.allocations_size() - 1));
  }
  auto device = CpuDevice::create({});
  ASSERT_TRUE(device.ok());
  auto executor = Executor::create(plan, **device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  auto data = TokenData::open(path("data"));
  ASSERT_TRUE(data.ok());
  auto batches = Batches::create(**executor, *data);
  ASSERT_TRUE(batches.ok()) << batches.status().toString();
  auto weight = batches->fill({0, 100}, SampleOrder(6, false, 0), 0, 6);
  ASSERT_TRUE(weight.ok());
  EXPECT_EQ(*weight, 31); // one of 32 targets is masked
  auto input = [&](int index) {
    auto *values = reinterpret_cast<int32_t *>(
        (*executor)->address(plan.inputs(index).slice()));
    return std::vector<int32_t>(values, values + 32);
  };
  std::vector<int32_t> positions = input(3), segments = input(4);
  // Sample 0 is tokens 0..15, sample 1 tokens 16..31.
  EXPECT_EQ(std::vector<int32_t>(positions.begin() + 3, positions.begin() + 7),
            (std::vector<int32_t>{3, 4, 0, 1}));
  EXPECT_EQ(segments[4], 0);
  EXPECT_EQ(segments[5], 1);
  EXPECT_EQ(positions[16 + 4], 4);
  EXPECT_EQ(positions[16 + 5], 0);
  EXPECT_EQ(segments[16 + 5], 1);
}

// Every run-time number, by its name or with a place behind it, at the ends of
// its range: in float32, which is what the kernels see.
TEST_F(TrainTest, SettingsBeyondTheirRangeAreRefused) {
  plan::Plan plan = bigram(4, 1, 1);
  for (const char *name :
       {"dropout", "dropout.residual", "weight_decay.head", "loss_scale"})
    plan.add_scalars()->set_name(name);
  struct Case {
    const char *name;
    double good, bad;
    const char *message;
  };
  for (const Case &one : {
           Case{"lr", 0, -1e-9, "--set lr=-1e-09: it has to be at least 0"},
           Case{"lr", 3e38, 1e39, "float32 ends at 3.4e+38"},
           Case{"lr", 1, NAN, "not finite"},
           Case{"lr", 1, INFINITY, "not finite"},
           Case{"beta1", 0, 1, "--set beta1=1: it has to be in [0, 1)"},
           Case{"beta2", 0.999, -0.1, "in [0, 1)"},
           Case{"beta2", 0.999999, 1 - 1e-9, "in [0, 1) in float32"},
           Case{"eps", 1e-8, 0, "--set eps=0: it has to be greater than 0"},
           Case{"eps", 1e-30, 1e-60, "greater than 0 in float32"},
           Case{"weight_decay", 0, -1, "at least 0"},
           Case{"weight_decay.head", 0, -1, "at least 0"},
           Case{"clip_norm", 0, -1, "at least 0"},
           Case{"dropout", 0, 1, "in [0, 1)"},
           Case{"dropout.residual", 0.9, -0.1, "in [0, 1)"},
           Case{"loss_scale", 1, 0, "greater than 0"},
       }) {
    options.scalars = {{one.name, one.good}};
    EXPECT_TRUE(checkSettings(plan, options).ok())
        << checkSettings(plan, options).toString();
    options.scalars = {{one.name, one.bad}};
    Status status = checkSettings(plan, options);
    EXPECT_EQ(status.exitStatus(), 2) << one.name << " " << one.bad;
    EXPECT_NE(status.toString().find(one.message), std::string::npos)
        << one.message << "\n"
        << status.toString();
  }
}

TEST_F(TrainTest, BadInputIsTold) {
  struct Case {
    const char *message;
    int exitStatus;
    std::function<void(TrainOptions &, plan::Plan &)> change;
  };
  Case cases[] = {
      {"did you mean weight_decay?", 2,
       [](TrainOptions &o, plan::Plan &) {
         o.scalars = {{"weigth_decay", 0.1}};
       }},
      {"made for 1 rank, not for 2\n", 2,
       [](TrainOptions &o, plan::Plan &) { o.ranks = 2; }},
      {"run with --nproc 1", 2,
       [](TrainOptions &o, plan::Plan &) { o.ranks = 2; }},
      {"beyond the vocabulary of 32", 2,
       [](TrainOptions &, plan::Plan &p) {
         p.mutable_inputs(0)->set_vocabulary(32);
       }},
      {"shorter than one sample", 2,
       [this](TrainOptions &o, plan::Plan &) {
         TokenFileContents contents;
         contents.tokens.assign(16, 1);
         EXPECT_TRUE(
             writeWholeFile(path("short"), encodeTokenFile(contents)).ok());
         o.dataPath = path("short");
       }},
      {"step 2: the loss is", 6,
       [](TrainOptions &o, plan::Plan &) {
         o.scalars = {{"lr", 1e30}, {"weight_decay", 1e30}};
       }},
      {"--mode=train", 2,
       [](TrainOptions &, plan::Plan &p) { p.set_mode("infer"); }},
  };
  for (const Case &one : cases) {
    TrainOptions changed = options;
    plan::Plan plan = bigram(4, 1, 1);
    one.change(changed, plan);
    Status status = runTraining(plan, changed);
    EXPECT_EQ(status.exitStatus(), one.exitStatus) << status.toString();
    EXPECT_NE(status.toString().find(one.message), std::string::npos)
        << "wanted: " << one.message << "\ngot: " << status.toString();
  }
}

TEST(LearningRate, WarmsUpAndDecays) {
  TrainOptions options;
  options.steps = 110;
  options.warmupSteps = 10;
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 1), 0.1);
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 10), 1.0);
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 110), 1.0);
  options.decay = Decay::Linear;
  options.minLearningRate = 0.1;
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 60), 0.55);
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 110), 0.1);
  options.decay = Decay::Cosine;
  EXPECT_NEAR(learningRate(options, 1.0, 60), 0.55, 1e-12);
  EXPECT_NEAR(learningRate(options, 1.0, 110), 0.1, 1e-12);
}
