// A plan that really trains, made without the compiler: a bigram model in as
// many micro-batches and on as many data-parallel ranks as asked for. For unit
// tests of the runtime alone; BIGRAM_KERNELS is the path of the shared object
// made from BigramKernelsForTest.c.
#ifndef LMC_RUNTIME_EXEC_BIGRAMPLANFORTEST_H
#define LMC_RUNTIME_EXEC_BIGRAMPLANFORTEST_H

#include "runtime/plan/plan.pb.h"

#include <fstream>
#include <iterator>
#include <string>
#include <utility>

namespace lmc::runtime {

class BigramPlan {
public:
  int64_t vocabulary = 256, batch = 2, tokens = 16, microBatches = 2, dp = 1;
  bool dpCollectives = true;

  plan::Plan build() {
    plan.set_compiler_version("test");
    plan.set_mode("train");
    plan.set_target("cpu");
    plan.set_sequence_length(tokens);
    plan.set_micro_batch(batch);
    plan.set_micro_batches(microBatches);
    plan.set_global_batch(batch * microBatches * dp);
    plan.set_vocabulary(vocabulary);
    auto *axis = plan.mutable_mesh()->add_axes();
    axis->set_name("dp");
    axis->set_size(dp);
    auto *symbol = plan.add_symbols();
    symbol->set_kind(plan::Symbol::MICRO_BATCH);
    symbol->set_name("micro_batch");
    symbol->set_maximum(microBatches - 1);
    addPorts();
    addStates();
    addKernels();
    addPrograms();
    return plan;
  }

private:
  uint32_t allocate(const char *name, int64_t bytes,
                    plan::Allocation::Contents contents) {
    auto *allocation = plan.add_allocations();
    allocation->set_name(name);
    allocation->set_memory(plan::DEVICE);
    allocation->set_bytes((bytes + 63) / 64 * 64);
    allocation->set_contents(contents);
    return uint32_t(plan.allocations_size() - 1);
  }
  static void set(plan::Slice *slice, uint32_t allocation, int64_t offset,
                  int64_t bytes, int64_t perMicroBatch = 0) {
    slice->set_allocation(allocation);
    slice->mutable_offset()->set_constant(offset);
    slice->set_bytes(bytes);
    if (perMicroBatch) {
      auto *term = slice->mutable_offset()->add_terms();
      term->set_symbol(0);
      term->set_coefficient(perMicroBatch);
    }
  }
  void addPorts() {
    int64_t bytes = batch * tokens * 4;
    const char *names[] = {"tokens", "targets", "token_weights"};
    for (int i = 0; i < 3; ++i) {
      inputs[i] =
          allocate(names[i], bytes * microBatches, plan::Allocation::INPUT);
      auto *port = plan.add_inputs();
      port->set_name(names[i]);
      port->set_dtype(i == 2 ? plan::F32 : plan::I32);
      port->add_shape(batch);
      port->add_shape(tokens);
      port->set_micro_batches(microBatches);
      port->set_vocabulary(i == 2 ? 0 : vocabulary);
      set(port->mutable_slice(), inputs[i], 0, bytes * microBatches);
    }
    outputs = allocate("outputs", 64, plan::Allocation::OUTPUT);
    const char *outputNames[] = {"loss", "grad_norm", "finite",
                                 "gradient_scale"};
    for (int i = 0; i < 4; ++i) {
      auto *port = plan.add_outputs();
      port->set_name(outputNames[i]);
      port->set_dtype(plan::F32);
      port->set_micro_batches(1);
      set(port->mutable_slice(), outputs, 4 * i, 4);
    }
    scalars = allocate("scalars", 64, plan::Allocation::STATE);
    std::pair<const char *, double> values[] = {
        {"lr", 0.05},  {"beta1", 0.9},         {"beta2", 0.99},
        {"eps", 1e-8}, {"weight_decay", 0.01}, {"clip_norm", 1.0},
        {"step", 0}};
    int index = 0;
    for (auto [name, value] : values) {
      auto *scalar = plan.add_scalars();
      scalar->set_name(name);
      scalar->set_dtype(index == 6 ? plan::I32 : plan::F32);
      scalar->set_default_value(value);
      set(scalar->mutable_slice(), scalars, 4 * index++, 4);
    }
    sums = allocate("sums", 64, plan::Allocation::STATE);
  }
  void addStates() {
    int64_t bytes = vocabulary * vocabulary * 4;
    std::pair<const char *, plan::State::Kind> kinds[] = {
        {"table", plan::State::PARAMETER},
        {"table.gradient", plan::State::ACCUMULATOR},
        {"table.m", plan::State::MOMENT},
        {"table.v", plan::State::MOMENT}};
    const char *roles[] = {"", "gradient", "m", "v"};
    for (int i = 0; i < 4; ++i) {
      states[i] = allocate(kinds[i].first, bytes, plan::Allocation::STATE);
      auto *state = plan.add_states();
      state->set_name(kinds[i].first);
      state->set_kind(kinds[i].second);
      state->set_dtype(plan::F32);
      for (int d = 0; d < 2; ++d) {
        state->add_global_shape(vocabulary);
        state->add_local_shape(vocabulary);
        state->add_local_offset();
      }
      set(state->mutable_slice(), states[i], 0, bytes);
      state->set_role(roles[i]);
      if (i > 0) {
        state->set_parameter("table");
        continue;
      }
      state->set_trainable(true);
      state->mutable_initialization()->set_kind(
          plan::State::Initialization::NORMAL);
      state->mutable_initialization()->set_scale(0.02);
      state->mutable_initialization()->set_id(77);
      auto *box = state->add_boxes(); // stored transposed
      box->add_names("bigram.weight");
      for (int d = 0; d < 2; ++d) {
        box->add_file_shape(vocabulary);
        box->add_split_shape(vocabulary);
        box->add_permutation(1 - d);
        box->add_box_shape(vocabulary);
        box->add_box_offset(0);
      }
    }
  }
  void addKernel(const char *symbol, uint32_t operands, uint32_t integers,
                 int64_t rowsPerUnit) {
    auto *kernel = plan.add_kernels();
    kernel->set_name(symbol);
    kernel->set_symbol(symbol);
    kernel->set_rows_per_unit(rowsPerUnit);
    kernel->set_columns(1);
    kernel->set_operands(operands);
    kernel->set_integers(integers);
  }
  void addKernels() {
    addKernel("bigram_forward", 6, 3, 1);
    addKernel("bigram_finish", 4, 1, 1);
    addKernel("bigram_adamw", 7, 2, 512);
    auto *code = plan.add_code();
    code->set_target_cpu("x86-64");
    std::ifstream file(BIGRAM_KERNELS, std::ios::binary);
    code->set_object(std::string(std::istreambuf_iterator<char>(file), {}));
  }
  static void operand(plan::Launch *launch, uint32_t allocation, int64_t offset,
                      int64_t bytes, bool write, int64_t perMicroBatch = 0) {
    auto *operand = launch->add_operands();
    operand->set_access(write ? plan::Operand::READ_WRITE
                              : plan::Operand::READ);
    set(operand->mutable_slice(), allocation, offset, bytes, perMicroBatch);
  }
  void addForward(plan::Program *program, bool gradient) {
    int64_t bytes = batch * tokens * 4, table = vocabulary * vocabulary * 4;
    auto *launch = program->add_instructions()->mutable_launch();
    launch->set_kernel(0);
    for (uint32_t input : inputs)
      operand(launch, input, 0, bytes, false, bytes);
    operand(launch, states[0], 0, table, false);
    operand(launch, states[1], 0, table, true);
    operand(launch, sums, 0, 64, true);
    launch->add_integers()->set_constant(batch * tokens);
    launch->add_integers()->set_constant(vocabulary);
    launch->add_integers()->set_constant(gradient);
    launch->mutable_rows()->set_constant(1);
  }
  void addAllReduce(plan::Program *program, uint32_t allocation,
                    int64_t bytes) {
    if (!dpCollectives)
      return;
    auto *collective = program->add_instructions()->mutable_collective();
    collective->set_kind(plan::Collective::ALL_REDUCE);
    collective->set_dtype(plan::F32);
    collective->add_axes(0);
    set(collective->mutable_source(), allocation, 0, bytes);
    set(collective->mutable_target(), allocation, 0, bytes);
  }
  void addFinish(plan::Program *program, int64_t elements) {
    auto *launch = program->add_instructions()->mutable_launch();
    launch->set_kernel(1);
    operand(launch, sums, 0, 64, false);
    operand(launch, states[1], 0, vocabulary * vocabulary * 4, false);
    operand(launch, scalars, 20, 4, false);
    operand(launch, outputs, 0, 64, true);
    launch->add_integers()->set_constant(elements);
    launch->mutable_rows()->set_constant(1);
  }
  void addPrograms() {
    int64_t elements = vocabulary * vocabulary;
    auto *zero = plan.add_programs();
    zero->set_name("zero");
    set(zero->add_instructions()->mutable_fill()->mutable_slice(), states[1], 0,
        elements * 4);
    set(zero->add_instructions()->mutable_fill()->mutable_slice(), sums, 0, 64);
    auto *forward = plan.add_programs();
    forward->set_name("forward");
    addForward(forward, true);
    auto *update = plan.add_programs();
    update->set_name("update");
    addAllReduce(update, states[1], elements * 4);
    addAllReduce(update, sums, 64);
    addFinish(update, elements);
    auto *adamw = update->add_instructions()->mutable_launch();
    adamw->set_kernel(2);
    for (int i = 0; i < 4; ++i)
      operand(adamw, states[i], 0, elements * 4, i != 1);
    operand(adamw, outputs, 0, 64, false);
    operand(adamw, scalars, 0, 64, false);
    operand(adamw, scalars, 24, 4, false);
    adamw->add_integers()->set_constant(elements);
    adamw->add_integers()->set_constant(512);
    adamw->mutable_rows()->set_constant(elements);
    auto *evaluate = plan.add_programs();
    evaluate->set_name("evaluate");
    addForward(evaluate, false);
    auto *mean = plan.add_programs();
    mean->set_name("mean");
    addAllReduce(mean, sums, 64);
    addFinish(mean, 0);
    for (bool train : {true, false}) {
      auto *schedule = plan.add_schedules();
      schedule->set_name(train ? "train" : "evaluate");
      schedule->add_calls()->set_program(0);
      for (int64_t i = 0; i < microBatches; ++i) {
        auto *call = schedule->add_calls();
        call->set_program(train ? 1 : 3);
        call->set_micro_batch(i);
      }
      schedule->add_calls()->set_program(train ? 2 : 4);
    }
  }

  plan::Plan plan;
  uint32_t inputs[3], outputs, scalars, sums, states[4];
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_EXEC_BIGRAMPLANFORTEST_H
