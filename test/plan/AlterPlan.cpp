// alter-plan PLAN COUNT: alters a plan of several pipeline stages COUNT times,
// each time so that two stages no longer agree on what they exchange, and asks
// the loader. Prints how many of each alteration were made and refused; exit
// status 1 if one was taken for a plan. The seed is fixed: a failure comes
// again.
#include "runtime/base/Log.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFile.h"

#include <cstdlib>
#include <functional>
#include <random>

using namespace lmc;

namespace {

using Random = std::mt19937_64;

size_t below(Random &random, size_t bound) {
  return size_t(random() % uint64_t(bound));
}

/// Where the plan has instructions that `wants` says yes to.
std::vector<std::pair<int, int>>
find(const plan::Plan &plan,
     const std::function<bool(const plan::Instruction &)> &wants) {
  std::vector<std::pair<int, int>> places;
  for (int p = 0; p < plan.programs_size(); ++p)
    for (int i = 0; i < plan.programs(p).instructions_size(); ++i)
      if (wants(plan.programs(p).instructions(i)))
        places.push_back({p, i});
  return places;
}

bool isTransfer(const plan::Instruction &instruction) {
  return instruction.has_send() || instruction.has_receive();
}

bool isOverStages(const plan::Plan &plan,
                  const plan::Instruction &instruction) {
  for (uint32_t axis : instruction.collective().axes())
    if (plan.mesh().axes(int(axis)).name() == "pp")
      return true;
  return false;
}

plan::Transfer &transferOf(plan::Instruction &instruction) {
  return instruction.has_send() ? *instruction.mutable_send()
                                : *instruction.mutable_receive();
}

/// Calls of a chunk's forward or backward on one stage.
struct CallPlace {
  plan::Schedule *schedule;
  int call;
};
CallPlace anyCall(plan::Plan &plan, Random &random) {
  plan::Schedule *schedule =
      plan.mutable_schedules(int(below(random, size_t(plan.schedules_size()))));
  return {schedule, int(below(random, size_t(schedule->calls_size())))};
}

struct Alteration {
  const char *name;
  /// False: found nothing to alter.
  std::function<bool(plan::Plan &, Random &)> apply;
};

/// One instruction that goes to other stages, changed by `change`.
Alteration ofExchange(
    const char *name,
    std::function<bool(plan::Plan &, plan::Program &, int, Random &)> change) {
  return {name, [change](plan::Plan &plan, Random &random) {
            auto places = find(plan, [&](const plan::Instruction &each) {
              return isTransfer(each) || isOverStages(plan, each);
            });
            auto [p, i] = places[below(random, places.size())];
            return change(plan, *plan.mutable_programs(p), i, random);
          }};
}

std::vector<Alteration> allAlterations() {
  return {
      ofExchange("left out",
                 [](plan::Plan &, plan::Program &program, int i, Random &) {
                   program.mutable_instructions()->DeleteSubrange(i, 1);
                   return true;
                 }),
      ofExchange("done twice",
                 [](plan::Plan &, plan::Program &program, int i, Random &) {
                   plan::Instruction copy = program.instructions(i);
                   *program.add_instructions() = copy;
                   return true;
                 }),
      ofExchange("of other bytes",
                 [](plan::Plan &, plan::Program &program, int i, Random &) {
                   plan::Instruction &at = *program.mutable_instructions(i);
                   if (isTransfer(at)) {
                     plan::Slice &slice = *transferOf(at).mutable_slice();
                     slice.set_bytes(slice.bytes() / 8 * 4);
                   } else {
                     plan::Collective &collective = *at.mutable_collective();
                     if (collective.source().bytes() < 8)
                       collective.set_dtype(plan::I32);
                     else
                       for (plan::Slice *slice : {collective.mutable_source(),
                                                  collective.mutable_target()})
                         slice->set_bytes(slice->bytes() / 8 * 4);
                   }
                   return true;
                 }),
      ofExchange(
          "of another kind",
          [](plan::Plan &, plan::Program &program, int i, Random &) {
            plan::Instruction &at = *program.mutable_instructions(i);
            if (isTransfer(at)) {
              plan::Transfer transfer = transferOf(at);
              bool sends = at.has_send();
              *(sends ? at.mutable_receive() : at.mutable_send()) = transfer;
            } else {
              at.mutable_collective()->set_reduction(plan::Collective::MAX);
            }
            return true;
          }),
      ofExchange(
          "on another channel or axis",
          [](plan::Plan &plan, plan::Program &program, int i, Random &random) {
            plan::Instruction &at = *program.mutable_instructions(i);
            if (isTransfer(at)) {
              plan::Transfer &transfer = transferOf(at);
              transfer.set_channel(transfer.channel() + 1 +
                                   uint32_t(below(random, 99)));
              return true;
            }
            for (int axis = 0; axis < plan.mesh().axes_size(); ++axis)
              if (plan.mesh().axes(axis).size() > 1 &&
                  plan.mesh().axes(axis).name() != "pp") {
                at.mutable_collective()->clear_axes();
                at.mutable_collective()->add_axes(uint32_t(axis));
                return true;
              }
            return false;
          }),
      ofExchange("to another stage",
                 [](plan::Plan &, plan::Program &program, int i, Random &) {
                   plan::Instruction &at = *program.mutable_instructions(i);
                   if (!isTransfer(at))
                     return false;
                   plan::Transfer &transfer = transferOf(at);
                   transfer.set_stage_offset(-transfer.stage_offset());
                   return true;
                 }),
      {"a call left out",
       [](plan::Plan &plan, Random &random) {
         auto [schedule, call] = anyCall(plan, random);
         schedule->mutable_calls()->DeleteSubrange(call, 1);
         return true;
       }},
      {"a call done twice",
       [](plan::Plan &plan, Random &random) {
         auto [schedule, call] = anyCall(plan, random);
         plan::Call copy = schedule->calls(call);
         *schedule->add_calls() = copy;
         return true;
       }},
      {"micro-batches exchanged",
       [](plan::Plan &plan, Random &random) {
         auto [schedule, call] = anyCall(plan, random);
         plan::Call &first = *schedule->mutable_calls(call);
         for (plan::Call &other : *schedule->mutable_calls())
           if (other.program() == first.program() &&
               other.micro_batch() != first.micro_batch()) {
             int64_t swapped = other.micro_batch();
             other.set_micro_batch(first.micro_batch());
             first.set_micro_batch(swapped);
             return true;
           }
         return false;
       }},
  };
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 3)
    return runtime::report(runtime::wrongInput("usage: alter-plan PLAN COUNT"));
  auto plan = runtime::readPlanFile(argv[1]);
  if (!plan.ok())
    return runtime::report(plan.status());
  if (runtime::Status status = runtime::checkPlan(*plan); !status.ok())
    return runtime::report(status);
  constexpr uint64_t seed = 20240520;
  Random random(seed);
  std::vector<Alteration> alterations = allAlterations();
  std::vector<int> made(alterations.size());
  int taken = 0, total = 0;
  for (size_t at = 0; total < std::atoi(argv[2]); ++at) {
    size_t kind = at % alterations.size();
    plan::Plan altered = *plan;
    if (!alterations[kind].apply(altered, random))
      continue;
    ++total;
    ++made[kind];
    if (runtime::checkPlan(altered).ok()) {
      ++taken;
      fmt::print("FAIL: seed {}, alteration {}: {}, and yet a plan\n", seed, at,
                 alterations[kind].name);
    }
  }
  for (size_t kind = 0; kind < alterations.size(); ++kind)
    fmt::print("{}: {}\n", alterations[kind].name, made[kind]);
  fmt::print("{} altered, {} refused\n", total, total - taken);
  return taken ? 1 : 0;
}
