// Reshards and shared-out state, read from plans written by hand.
#include "tools/lmc/InspectMesh.h"
#include "tools/lmc/StepReshards.h"

#include <gtest/gtest.h>

using namespace lmc;

namespace {

void addAxis(plan::Plan &plan, const char *name, int64_t size) {
  plan::Mesh::Axis *axis = plan.mutable_mesh()->add_axes();
  axis->set_name(name);
  axis->set_size(size);
}

// Two stages with two chunks each; three micro-batches.
plan::Plan pipeline() {
  plan::Plan plan;
  plan.set_mode("train");
  addAxis(plan, "pp", 2);
  addAxis(plan, "fsdp", 2);
  addAxis(plan, "dp", 2);
  addAxis(plan, "tp", 1);
  (*plan.mutable_settings())["pipeline_schedule"] = "interleaved";
  for (int chunk = 0; chunk < 4; ++chunk)
    for (const char *name : {"forward", "backward"}) {
      plan::Program *program = plan.add_programs();
      program->set_name(name + ("." + std::to_string(chunk)));
      program->set_chunk(uint32_t(chunk));
    }
  for (int stage = 0; stage < 2; ++stage) {
    plan::Schedule *schedule = plan.add_schedules();
    schedule->set_name("train");
    schedule->set_stage(stage);
    for (int program : {2 * stage, 2 * stage + 4, 2 * stage + 5, 2 * stage + 1})
      for (int i = 0; i < 3; ++i)
        schedule->add_calls()->set_program(uint32_t(program));
  }
  plan.add_locations();
  for (const char *layer : {"h.0.out", "h.1.out", "h.0.norm", "head"}) {
    plan::Location *location = plan.add_locations();
    location->set_file("/models/m.textproto");
    location->set_line(7);
    location->set_layer(layer);
  }
  return plan;
}

plan::Reshard *addReshard(plan::Plan &plan, int64_t price) {
  plan::Reshard *reshard = plan.add_reshards();
  reshard->set_from("–; partial on tp");
  reshard->set_to("–");
  reshard->add_steps("reduce_scatter tp dim 0");
  reshard->add_steps("all_gather tp dim 0");
  reshard->set_received_bytes(price);
  return reshard;
}

void addPlace(plan::Reshard *reshard, int chunk, const char *program,
              int location, int user) {
  plan::Reshard::Place *place = reshard->add_places();
  place->set_chunk(uint32_t(chunk));
  place->set_program(program);
  place->set_location(uint32_t(location));
  place->set_user_location(uint32_t(user));
}

TEST(StepReshards, CountsThoseOfTheStagesChunksOnceAMicroBatch) {
  plan::Plan plan = pipeline();
  plan::Reshard *first = addReshard(plan, 100), *other = addReshard(plan, 7);
  addPlace(first, 0, "backward", 1, 3);
  addPlace(first, 0, "forward", 1, 3);
  addPlace(first, 2, "forward", 2, 3);
  addPlace(first, 1, "forward", 2, 4);
  addPlace(other, 3, "forward", 0, 4);
  addPlace(other, 0, "evaluate", 0, 4); // not of the step
  auto both = reshardsOf(plan, plan.schedules(0), /*anyLayer=*/true);
  ASSERT_EQ(both.size(), 2u);
  // Layers 0 and 1 in one, the forward first.
  EXPECT_EQ(both[0].program, "forward");
  EXPECT_EQ(both[0].place, "m.textproto:7 h.*.out");
  EXPECT_EQ(both[0].user, "m.textproto:7 h.*.norm");
  EXPECT_EQ(both[0].calls, 6);
  EXPECT_EQ(both[1].program, "backward");
  EXPECT_EQ(both[1].calls, 3);
  EXPECT_EQ(priceOf(both), 900);
  EXPECT_EQ(reshardsOf(plan, plan.schedules(0), /*anyLayer=*/false).size(), 3u);
  EXPECT_EQ(priceOf(reshardsOf(plan, plan.schedules(1), true)), 321);
  EXPECT_EQ(changeText(*first), "–; partial on tp -> –");
  EXPECT_EQ(stepsText(*first),
            "reduce_scatter tp dim 0, then all_gather tp dim 0");
}

std::string lineOf(const plan::Plan &plan, const std::string &word) {
  for (const auto &[name, text] : meshLines(plan))
    if (name == word)
      return text;
  return "";
}

TEST(InspectMesh, NamesAxesScheduleAndChunks) {
  plan::Plan plan = pipeline();
  EXPECT_EQ(lineOf(plan, "mesh"), "8 ranks: pp=2, fsdp=2, dp=2");
  EXPECT_EQ(lineOf(plan, "pipeline"),
            "interleaved over 2 stages, 2 virtual stages on each");
  EXPECT_EQ(lineOf(plan, "sharding"), "");
  (*plan.mutable_settings())["sharding"] = "own.textproto";
  EXPECT_EQ(lineOf(plan, "sharding"),
            "own.textproto, without sequence parallelism");
  (*plan.mutable_settings())["sequence_parallel"] = "tp";
  EXPECT_EQ(lineOf(plan, "sharding"), "own.textproto, with sequence "
                                      "parallelism: tokens over tp between "
                                      "layers");
}

// Each list of axes is a parameter's own; an axis of one rank shares nothing.
TEST(InspectMesh, StateIsSharedOutAsItsPiecesSay) {
  plan::Plan plan = pipeline();
  auto add = [&](plan::State::Kind kind, std::vector<uint32_t> axes) {
    plan::State *state = plan.add_states();
    state->set_kind(kind);
    for (uint32_t axis : axes)
      state->mutable_piece()->add_axes(axis);
  };
  add(plan::State::PARAMETER, {1});
  add(plan::State::PARAMETER, {1, 3});
  add(plan::State::ACCUMULATOR, {1, 2});
  add(plan::State::ACCUMULATOR, {1, 2});
  add(plan::State::MOMENT, {1, 2});
  add(plan::State::MOMENT, {3});
  // As ZeRO-1 does: each rank sums up the whole bucket and finishes a piece.
  add(plan::State::ACCUMULATOR, {1, 2});
  plan.add_symbols()->set_kind(plan::Symbol::COORDINATE);
  plan.mutable_symbols(0)->set_axis(2);
  plan.mutable_states(plan.states_size() - 1)
      ->mutable_slice()
      ->mutable_offset()
      ->add_terms()
      ->set_coefficient(64);
  EXPECT_EQ(
      lineOf(plan, "state"),
      "parameters over fsdp, gradients over fsdp (1) or over fsdp dp (2), "
      "moments whole (1) or over fsdp dp (1)");
  auto json = describeMesh(plan)["training_state"];
  EXPECT_EQ(json["gradients"][1]["over"], "fsdp dp");
  EXPECT_EQ(json["gradients"][1]["tensors"], 2);
}

// A rule over a data axis cuts dims, a bucket what is left; tp is of neither.
TEST(InspectMesh, StateIsSharedOutWhereADataAxisSplitsItsDims) {
  plan::Plan plan = pipeline();
  plan.mutable_mesh()->mutable_axes(3)->set_size(2);
  for (uint32_t axis = 0; axis < 4; ++axis) {
    plan::Symbol *symbol = plan.add_symbols();
    symbol->set_kind(plan::Symbol::COORDINATE);
    symbol->set_axis(axis);
  }
  auto add = [&](plan::State::Kind kind, std::vector<uint32_t> dims) {
    plan::State *state = plan.add_states();
    state->set_kind(kind);
    state->add_local_offset();
    plan::Linear *offset = state->add_local_offset();
    for (uint32_t symbol : dims) {
      offset->add_terms()->set_coefficient(8);
      offset->mutable_terms(offset->terms_size() - 1)->set_symbol(symbol);
    }
    return state;
  };
  add(plan::State::PARAMETER, {2});
  add(plan::State::PARAMETER, {3});
  add(plan::State::ACCUMULATOR, {2, 1, 3});
  add(plan::State::MOMENT, {2})->mutable_piece()->add_axes(1);
  EXPECT_EQ(lineOf(plan, "state"),
            "parameters whole (1) or over dp (1), gradients over dp fsdp, "
            "moments over dp fsdp");
  auto json = describeMesh(plan)["training_state"];
  EXPECT_EQ(json["parameters"][1]["over"], "dp");
  EXPECT_EQ(json["moments"][0]["over"], "dp fsdp");
}

} // namespace
