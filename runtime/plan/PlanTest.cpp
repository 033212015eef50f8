// The container refuses what is damaged; the checker refuses what does not
// hang together.
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/plan/SliceForTest.h"
#include "runtime/plan/StepTime.h"

#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <xxhash.h>

using namespace lmc;
using namespace lmc::runtime;

/// One kernel over one parameter, on a mesh with dp=2, in two micro-batches.
static plan::Plan smallPlan() {
  plan::Plan p;
  p.set_compiler_version("test");
  p.set_mode("train");
  (*p.mutable_settings())["mesh"] = "dp=2";
  (*p.mutable_settings())["seq"] = "8";
  p.set_micro_batches(2);
  auto *axis = p.mutable_mesh()->add_axes();
  axis->set_name("dp");
  axis->set_size(2);
  auto *microBatch = p.add_symbols();
  microBatch->set_kind(plan::Symbol::MICRO_BATCH);
  microBatch->set_name("m");
  microBatch->set_maximum(1);
  auto *coordinate = p.add_symbols();
  coordinate->set_kind(plan::Symbol::COORDINATE);
  coordinate->set_name("dp");
  coordinate->set_maximum(1);
  auto *weights = p.add_allocations();
  weights->set_name("weights");
  weights->set_memory(plan::DEVICE);
  weights->set_bytes(256);
  weights->set_contents(plan::Allocation::STATE);
  auto *input = p.add_allocations();
  input->set_name("input");
  input->set_memory(plan::DEVICE);
  input->set_bytes(64);
  input->set_contents(plan::Allocation::INPUT);
  auto *state = p.add_states();
  state->set_name("w");
  state->set_kind(plan::State::PARAMETER);
  state->set_dtype(plan::F32);
  state->add_global_shape(8);
  state->add_local_shape(8);
  state->add_local_offset();
  setSlice(state->mutable_slice(), 0, 64, 32);
  auto *box = state->add_boxes();
  box->add_names("w");
  for (int64_t d : {2, 4}) {
    box->add_file_shape(d);
    box->add_split_shape(d);
  }
  box->add_permutation(1);
  box->add_permutation(0);
  box->add_box_shape(8);
  box->add_box_offset(0);
  auto *port = p.add_inputs();
  port->set_name("tokens");
  port->set_dtype(plan::I32);
  port->add_shape(8);
  port->set_micro_batches(2);
  setSlice(port->mutable_slice(), 1, 0, 64);
  auto *scalar = p.add_scalars();
  scalar->set_name("lr");
  scalar->set_dtype(plan::F32);
  setSlice(scalar->mutable_slice(), 0, 0, 4);
  auto *kernel = p.add_kernels();
  kernel->set_name("k");
  kernel->set_symbol("k");
  kernel->set_rows_per_unit(4);
  kernel->set_columns(1);
  kernel->set_operands(2);
  kernel->set_integers(1);
  auto *code = p.add_code();
  code->set_target_cpu("x86-64-v3");
  code->set_object("elf");
  auto *program = p.add_programs();
  program->set_name("forward");
  auto *launch = program->add_instructions()->mutable_launch();
  auto *a = launch->add_operands();
  setSlice(a->mutable_slice(), 1, 0, 32);
  auto *term = a->mutable_slice()->mutable_offset()->add_terms();
  term->set_symbol(0);
  term->set_coefficient(32);
  auto *b = launch->add_operands();
  setSlice(b->mutable_slice(), 0, 64, 32);
  b->set_access(plan::Operand::READ_WRITE);
  launch->add_integers()->set_constant(8);
  launch->mutable_rows()->set_constant(8);
  auto *reduce = program->add_instructions()->mutable_collective();
  reduce->set_kind(plan::Collective::ALL_REDUCE);
  reduce->set_dtype(plan::F32);
  reduce->add_axes(0);
  setSlice(reduce->mutable_source(), 0, 64, 32);
  setSlice(reduce->mutable_target(), 0, 64, 32);
  auto *schedule = p.add_schedules();
  schedule->set_name("train");
  schedule->add_calls()->set_micro_batch(0);
  schedule->add_calls()->set_micro_batch(1);
  return p;
}

TEST(PlanFile, RoundTripsAndIsDeterministic) {
  plan::Plan plan = smallPlan();
  auto bytes = encodePlan(plan);
  ASSERT_TRUE(bytes.ok());
  auto back = decodePlan(*bytes, "p.plan");
  ASSERT_TRUE(back.ok()) << back.status().toString();
  EXPECT_EQ(*encodePlan(*back), *bytes);
  EXPECT_TRUE(checkPlan(*back).ok()) << checkPlan(*back).toString();
}

TEST(PlanFile, RefusesEveryTruncationAndEveryFlippedBit) {
  std::string bytes = *encodePlan(smallPlan());
  for (size_t size = 0; size < bytes.size(); ++size) {
    auto result = decodePlan(std::string_view(bytes).substr(0, size), "p");
    ASSERT_FALSE(result.ok()) << size;
    EXPECT_EQ(result.status().exitStatus(), 4);
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = char(damaged[bit / 8] ^ (1 << (bit % 8)));
    auto result = decodePlan(damaged, "p");
    ASSERT_FALSE(result.ok()) << bit;
    EXPECT_EQ(result.status().exitStatus(), 4);
  }
  EXPECT_FALSE(decodePlan(bytes + "x", "p").ok());
}

/// Makes the container right again around a changed message.
static std::string reseal(const std::string &message) {
  std::string bytes = encodePlan(plan::Plan())->substr(0, 12);
  for (int i = 0; i < 8; ++i)
    bytes.push_back(char(message.size() >> (8 * i)));
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(message.data(), message.size()));
  bytes.append(reinterpret_cast<const char *>(sum.digest), sizeof sum.digest);
  return bytes + message;
}

TEST(PlanFile, RefusesUnknownFieldsAndEnumerators) {
  std::string message = smallPlan().SerializeAsString();
  auto unknownField = decodePlan(reseal(message + "\xf8\x3e\x01"), "p");
  ASSERT_FALSE(unknownField.ok());
  EXPECT_NE(unknownField.status().message().find("field 1007"),
            std::string::npos)
      << unknownField.status().message();
  plan::Plan plan = smallPlan();
  plan.mutable_states(0)->set_dtype(plan::DataType(99));
  auto unknownValue = decodePlan(*encodePlan(plan), "p");
  ASSERT_FALSE(unknownValue.ok());
  EXPECT_NE(unknownValue.status().message().find("99"), std::string::npos);
}

// With the checksum made right again, reading and checking never crashes.
TEST(PlanFile, SurvivesMutationsBehindARightChecksum) {
  std::string message = smallPlan().SerializeAsString();
  std::mt19937 random(7);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = message;
    for (int n = 1 + int(random() % 3); n > 0; --n)
      damaged[random() % damaged.size()] = char(random());
    auto plan = decodePlan(reseal(damaged), "p");
    if (plan.ok() && checkPlan(*plan).ok())
      ++accepted;
  }
  EXPECT_LT(accepted, 20000);
}

struct BadPlan {
  const char *message;
  std::function<void(plan::Plan &)> change;
};

/// "w" and a "v" become parts of one bucket of 16 elements.
static void addPieces(plan::Plan &p, int64_t offsetOfSecond) {
  plan::State &w = *p.mutable_states(0);
  w.mutable_slice()->set_bytes(64);
  w.mutable_piece()->set_elements(16);
  plan::State &v = *p.add_states() = w;
  v.set_name("v");
  v.mutable_boxes(0)->set_names(0, "v");
  v.mutable_piece()->set_offset(offsetOfSecond);
}

TEST(PlanCheck, PartsOfABucketLieBesideEachOther) {
  plan::Plan plan = smallPlan();
  addPieces(plan, 8);
  EXPECT_TRUE(checkPlan(plan).ok()) << checkPlan(plan).toString();
}

TEST(PlanCheck, NamesWhatIsWrong) {
  auto launch = [](plan::Plan &p) {
    return p.mutable_programs(0)->mutable_instructions(0)->mutable_launch();
  };
  std::vector<BadPlan> bad = {
      {"exceeds allocation 0",
       [](plan::Plan &p) {
         p.mutable_states(0)->mutable_slice()->mutable_offset()->set_constant(
             232);
       }},
      {"exceeds allocation 1",
       [&](plan::Plan &p) {
         launch(p)
             ->mutable_operands(0)
             ->mutable_slice()
             ->mutable_offset()
             ->mutable_terms(0)
             ->set_coefficient(33);
       }},
      {"overflows",
       [&](plan::Plan &p) {
         auto *offset =
             launch(p)->mutable_operands(0)->mutable_slice()->mutable_offset();
         offset->set_constant(INT64_MAX);
       }},
      {"unknown symbol",
       [&](plan::Plan &p) {
         launch(p)->mutable_rows()->add_terms()->set_symbol(9);
       }},
      {"1099511627776 rows and 274877906944 units are more than the 32 bytes",
       [&](plan::Plan &p) {
         launch(p)->mutable_rows()->set_constant(int64_t(1) << 40);
       }},
      {"8 rows and 64 units are more than the 32 bytes",
       [](plan::Plan &p) { p.mutable_kernels(0)->set_columns(32); }},
      {"names allocation 9",
       [](plan::Plan &p) {
         p.mutable_inputs(0)->mutable_slice()->set_allocation(9);
       }},
      {"which is INPUT",
       [&](plan::Plan &p) {
         launch(p)->mutable_operands(0)->set_access(plan::Operand::WRITE);
       }},
      {"2 and 1 wanted", [&](plan::Plan &p) { launch(p)->add_integers(); }},
      {"kernel 5 of 1", [&](plan::Plan &p) { launch(p)->set_kernel(5); }},
      {"no multiple of 64",
       [](plan::Plan &p) { p.mutable_allocations(0)->set_bytes(65); }},
      {"takes 36 bytes",
       [](plan::Plan &p) {
         p.mutable_states(0)->clear_boxes();
         p.mutable_states(0)->set_local_shape(0, 9);
       }},
      {"its piece names mesh axis 7 of 1",
       [](plan::Plan &p) {
         p.mutable_states(0)->mutable_piece()->add_axes(7);
       }},
      {"its piece of 9 elements is not its slice of 32 bytes",
       [](plan::Plan &p) {
         p.mutable_states(0)->mutable_piece()->set_elements(9);
       }},
      {"its 32 bytes from element 9 on exceed 2 pieces of 8",
       [](plan::Plan &p) {
         auto *piece = p.mutable_states(0)->mutable_piece();
         piece->add_axes(0);
         piece->set_elements(8);
         piece->set_offset(9);
       }},
      {"no permutation",
       [](plan::Plan &p) {
         p.mutable_states(0)->mutable_boxes(0)->set_permutation(0, 0);
       }},
      {"w is stored twice",
       [](plan::Plan &p) {
         *p.add_states() = p.states(0);
         p.mutable_states(p.states_size() - 1)->set_name("again");
       }},
      {"micro-batch 2",
       [](plan::Plan &p) {
         p.mutable_schedules(0)->mutable_calls(0)->set_micro_batch(2);
       }},
      {"program 3 of 1",
       [](plan::Plan &p) {
         p.mutable_schedules(0)->mutable_calls(0)->set_program(3);
       }},
      {"mesh axis 4 of 1",
       [](plan::Plan &p) {
         p.mutable_programs(0)
             ->mutable_instructions(1)
             ->mutable_collective()
             ->set_axes(0, 4);
       }},
      {"ALL_GATHER over 2 ranks",
       [](plan::Plan &p) {
         p.mutable_programs(0)
             ->mutable_instructions(1)
             ->mutable_collective()
             ->set_kind(plan::Collective::ALL_GATHER);
       }},
      {"it has no kind",
       [](plan::Plan &p) {
         p.mutable_programs(0)->mutable_instructions(0)->clear_kind();
       }},
      {"a reshard receives -1 bytes",
       [](plan::Plan &p) { p.add_reshards()->set_received_bytes(-1); }},
      {"a reshard names location 7 of 0",
       [](plan::Plan &p) {
         p.add_reshards()->add_places()->set_user_location(7);
       }},
      {"no mesh coordinate",
       [](plan::Plan &p) {
         p.mutable_states(0)->mutable_slice()->mutable_offset()->add_terms();
       }},
      {"w and lr share bytes of allocation 0 on stage 0",
       [](plan::Plan &p) {
         setSlice(p.mutable_scalars(0)->mutable_slice(), 0, 92, 4);
       }},
      {"tokens and others share bytes of allocation 1 on stage 0",
       [](plan::Plan &p) {
         plan::Port &other = *p.add_inputs() = p.inputs(0);
         other.set_name("others");
       }},
      {"w and v share bytes", // as parts of one bucket, the second too early
       [](plan::Plan &p) { addPieces(p, 7); }},
  };
  for (const BadPlan &one : bad) {
    plan::Plan plan = smallPlan();
    one.change(plan);
    Status status = checkPlan(plan);
    ASSERT_FALSE(status.ok()) << one.message;
    EXPECT_EQ(status.exitStatus(), 4);
    EXPECT_NE(status.message().find(one.message), std::string::npos)
        << "wanted: " << one.message << "\ngot: " << status.message();
  }
}

/// What a plan for cuda says of its kernels and their code.
TEST(PlanCheck, DeviceKernels) {
  auto cuda = [] {
    plan::Plan p = smallPlan();
    p.set_target("cuda");
    p.mutable_kernels(0)->set_threads(96);
    p.mutable_kernels(0)->set_shared_bytes(4096);
    p.mutable_code(0)->set_target_cpu("sm_80");
    p.mutable_code(0)->set_object(std::string(".version 7.8\n\0", 14));
    auto *cubin = p.add_code();
    cubin->set_target_cpu("sm_80");
    cubin->set_object("\x7f"
                      "ELF");
    return p;
  };
  EXPECT_TRUE(checkPlan(cuda()).ok()) << checkPlan(cuda()).toString();
  auto refused = [&](const char *part, auto change) {
    plan::Plan p = cuda();
    change(p);
    EXPECT_NE(checkPlan(p).toString().find(part), std::string::npos)
        << checkPlan(p).toString();
  };
  for (uint32_t threads : {0, 16, 100, 1056})
    refused("which is no multiple of 32 up to 1024",
            [=](auto &p) { p.mutable_kernels(0)->set_threads(threads); });
  for (int64_t bytes : {-1, (227 << 10) + 1})
    refused("bytes of shared memory; at most 232448",
            [=](auto &p) { p.mutable_kernels(0)->set_shared_bytes(bytes); });
  refused("names sm_80 or later and no features",
          [](auto &p) { p.mutable_code(0)->set_target_cpu("x86-64-v3"); });
  refused("names sm_80 or later and no features",
          [](auto &p) { p.mutable_code(0)->add_cpu_features("avx2"); });
  refused("neither a cubin nor PTX that ends in its only NUL",
          [](auto &p) { p.mutable_code(0)->set_object(".version 7.8"); });
  refused("neither a cubin nor PTX that ends in its only NUL", [](auto &p) {
    p.mutable_code(0)->set_object(std::string(".ver\0sion\0", 10));
  });
  refused("does not always begin at a multiple of 16 bytes", [](auto &p) {
    p.mutable_programs(0)
        ->mutable_instructions(0)
        ->mutable_launch()
        ->mutable_operands(0)
        ->mutable_slice()
        ->mutable_offset()
        ->mutable_terms(0)
        ->set_coefficient(8);
  });
  // 24 bytes are loaded 8 at a time.
  auto apart = [](int64_t bytes) {
    return [=](auto &p) {
      auto *slice = p.mutable_programs(0)
                        ->mutable_instructions(0)
                        ->mutable_launch()
                        ->mutable_operands(0)
                        ->mutable_slice();
      slice->set_bytes(24);
      slice->mutable_offset()->mutable_terms(0)->set_coefficient(bytes);
    };
  };
  refused("does not always begin at a multiple of 8 bytes", apart(4));
  plan::Plan natural = cuda();
  apart(8)(natural);
  EXPECT_EQ(checkPlan(natural).toString().find("begin at"), std::string::npos);
  refused("grid of 8589934592 x 1 units is too large", [](auto &p) {
    p.mutable_kernels(0)->set_rows_per_unit(1);
    p.mutable_programs(0)
        ->mutable_instructions(0)
        ->mutable_launch()
        ->mutable_rows()
        ->set_constant(int64_t(1) << 33);
  });
  refused("blocks of 96 threads and 4096 shared bytes in a plan for cpu",
          [](auto &p) { p.set_target("cpu"); });
}

TEST(CheckPlan, VariantsAreLaunchedAlike) {
  auto variants = [] {
    plan::Plan p = smallPlan();
    for (const char *name : {"one", "four"}) {
      *p.add_kernels() = p.kernels(0);
      p.mutable_kernels(p.kernels_size() - 1)->set_name(name);
    }
    for (int64_t number : {1, 2}) {
      auto *variant = p.mutable_kernels(0)->add_variants();
      variant->set_most_rows(number * number);
      variant->set_kernel(uint32_t(number));
    }
    return p;
  };
  EXPECT_TRUE(checkPlan(variants()).ok()) << checkPlan(variants()).toString();
  auto refused = [&](const char *part, auto change) {
    plan::Plan p = variants();
    change(p);
    EXPECT_NE(checkPlan(p).toString().find(part), std::string::npos)
        << checkPlan(p).toString();
  };
  refused("kernel k has variant 3 of 3 kernels", [](auto &p) {
    p.mutable_kernels(0)->mutable_variants(1)->set_kernel(3);
  });
  for (int64_t rows : {1, 0, -4})
    refused("behind one for 1", [=](auto &p) {
      p.mutable_kernels(0)->mutable_variants(1)->set_most_rows(rows);
    });
  refused("has a variant of 3 and 1, with 0 variants",
          [](auto &p) { p.mutable_kernels(2)->set_operands(3); });
  refused("has a variant of 2 and 0, with 0 variants",
          [](auto &p) { p.mutable_kernels(1)->set_integers(0); });
  refused("has a variant of 2 and 1, with 1 variants", [](auto &p) {
    *p.mutable_kernels(1)->add_variants() = p.kernels(0).variants(0);
  });
  // As many rows as the variant may have.
  refused("grid of 8192 x 1099511627776 units is too large", [](auto &p) {
    p.mutable_kernels(2)->set_rows_per_unit(1);
    p.mutable_kernels(2)->set_columns(int64_t(1) << 40);
    p.mutable_kernels(0)->mutable_variants(1)->set_most_rows(8192);
    auto *launch =
        p.mutable_programs(0)->mutable_instructions(0)->mutable_launch();
    launch->mutable_rows()->set_constant(1 << 20);
  });
}

/// Two stages: the first sends 32 bytes to the second, and both meet in a sum.
static plan::Plan twoStages() {
  plan::Plan p;
  auto *axis = p.mutable_mesh()->add_axes();
  axis->set_name("pp");
  axis->set_size(2);
  auto *scratch = p.add_allocations();
  scratch->set_name("scratch");
  scratch->set_memory(plan::DEVICE);
  scratch->set_contents(plan::Allocation::STATE);
  scratch->set_bytes(128);
  scratch->add_stage_bytes(128);
  scratch->add_stage_bytes(64);
  for (int stage : {0, 1}) {
    auto *program = p.add_programs();
    program->set_name(stage == 0 ? "first" : "second");
    auto *move = program->add_instructions();
    auto *transfer =
        stage == 0 ? move->mutable_send() : move->mutable_receive();
    transfer->set_stage_offset(stage == 0 ? 1 : -1);
    setSlice(transfer->mutable_slice(), 0, stage == 0 ? 96 : 32, 32);
    auto *sum = program->add_instructions()->mutable_collective();
    sum->set_kind(plan::Collective::ALL_REDUCE);
    sum->set_dtype(plan::F32);
    sum->add_axes(0);
    setSlice(sum->mutable_source(), 0, 0, 4);
    setSlice(sum->mutable_target(), 0, 0, 4);
    auto *schedule = p.add_schedules();
    schedule->set_name("train");
    schedule->set_stage(stage);
    schedule->add_calls()->set_program(uint32_t(stage));
  }
  return p;
}

// The second stage waits for the first one's copy, both for the sum.
TEST(StepTime, StagesWait) {
  plan::Plan p = twoStages();
  EXPECT_EQ(timeStep(p, "train").length, 0);
  for (int stage : {0, 1}) {
    auto *instructions = p.mutable_programs(stage)->mutable_instructions();
    auto *copy = instructions->Add();
    copy->mutable_copy();
    copy->set_bytes_moved(stage == 0 ? 3 : 5);
    if (stage == 0) // before the send
      for (int i = instructions->size() - 1; i > 0; --i)
        instructions->SwapElements(i, i - 1);
  }
  StepTime time = timeStep(p, "train");
  EXPECT_EQ(time.length, 30 + 50);
  EXPECT_EQ(time.work, 50);
  EXPECT_EQ(time.stages[1].calls[0].begin, 30);
  // What stands before a receive does not wait for it.
  auto *second = p.mutable_programs(1)->mutable_instructions();
  for (int i = second->size() - 1; i > 0; --i)
    second->SwapElements(i, i - 1);
  time = timeStep(p, "train");
  EXPECT_EQ(time.length, 50);
  EXPECT_EQ(time.stages[1].calls[0].begin, 0);
}

TEST(PlanCheck, StagesMeet) {
  EXPECT_TRUE(checkPlan(twoStages()).ok()) << checkPlan(twoStages()).toString();
  auto refused = [](const char *because,
                    const std::function<void(plan::Plan &)> &change) {
    plan::Plan p = twoStages();
    change(p);
    Status status = checkPlan(p);
    EXPECT_FALSE(status.ok()) << because;
    EXPECT_NE(status.toString().find(because), std::string::npos)
        << status.toString();
  };
  refused("32 bytes are expected on channel 0, 16 were sent", [](auto &p) {
    p.mutable_programs(0)
        ->mutable_instructions(0)
        ->mutable_send()
        ->mutable_slice()
        ->set_bytes(16);
  });
  refused("the stages wait for each other for ever", [](auto &p) {
    p.mutable_programs(0)->mutable_instructions(0)->mutable_send()->set_channel(
        1);
  });
  refused("the stages wait for each other for ever", [](auto &p) {
    // One sends behind the sum, the other receives before it.
    p.mutable_programs(0)->mutable_instructions()->SwapElements(0, 1);
  });
  refused("on channel 0 that nobody receives", [](auto &p) {
    p.mutable_programs(1)->mutable_instructions()->DeleteSubrange(0, 1);
  });
  refused("which is another collective", [](auto &p) {
    p.mutable_programs(0)
        ->mutable_instructions(1)
        ->mutable_collective()
        ->set_reduction(plan::Collective::MAX);
  });
  refused("micro-batch 1 is expected on channel 0, 0 was sent", [](auto &p) {
    // The second stage takes two micro-batches in another order.
    p.set_micro_batches(2);
    for (int stage : {0, 1}) {
      auto *schedule = p.mutable_schedules(stage);
      schedule->add_calls()->set_program(uint32_t(stage));
      schedule->mutable_calls(stage == 0 ? 1 : 0)->set_micro_batch(1);
    }
  });
  refused("there is no stage 2", [](auto &p) {
    auto *send = p.mutable_programs(1)->add_instructions()->mutable_send();
    send->set_stage_offset(1);
    setSlice(send->mutable_slice(), 0, 0, 32);
  });
  refused("exceeds allocation 0 (scratch) of 64 bytes", [](auto &p) {
    p.mutable_programs(1)
        ->mutable_instructions(0)
        ->mutable_receive()
        ->mutable_slice()
        ->mutable_offset()
        ->set_constant(64);
  });
  refused("program first is called on stages 0 and 1", [](auto &p) {
    p.mutable_schedules(1)->mutable_calls(0)->set_program(0);
  });
  refused("has sizes for 1 stages of 2", [](auto &p) {
    p.mutable_allocations(0)->mutable_stage_bytes()->RemoveLast();
  });
}
