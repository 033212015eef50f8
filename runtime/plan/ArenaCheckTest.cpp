// The checker refuses a plan whose calls write over what others have still to
// read.
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/SliceForTest.h"

#include <functional>
#include <gtest/gtest.h>
#include <limits>

using namespace lmc;
using namespace lmc::runtime;

/// A forward that keeps 64 bytes in its slot for the backward; two
/// micro-batches are under way at once.
static plan::Plan twoSlots() {
  plan::Plan p;
  p.set_micro_batches(2);
  auto *symbol = p.add_symbols();
  symbol->set_kind(plan::Symbol::SLOT);
  symbol->set_name("slot");
  symbol->set_maximum(1);
  auto *saved = p.add_allocations();
  saved->set_name("saved");
  saved->set_memory(plan::DEVICE);
  saved->set_contents(plan::Allocation::SAVED);
  saved->set_bytes(192);
  auto setSaved = [](plan::Slice *slice) {
    setSlice(slice, 0, 0, 64);
    slice->mutable_offset()->add_terms()->set_coefficient(64);
  };
  auto *forward = p.add_programs();
  forward->set_name("forward");
  setSaved(forward->add_instructions()->mutable_fill()->mutable_slice());
  auto *backward = p.add_programs();
  backward->set_name("backward");
  auto *copy = backward->add_instructions()->mutable_copy();
  setSaved(copy->mutable_source());
  setSlice(copy->mutable_target(), 0, 128, 64);
  auto *schedule = p.add_schedules();
  schedule->set_name("train");
  for (uint32_t program : {0u, 1u})
    for (int64_t microBatch : {0, 1}) {
      auto *call = schedule->add_calls();
      call->set_program(program);
      call->set_micro_batch(microBatch);
      call->add_slots(microBatch);
    }
  return p;
}

TEST(ArenaCheck, SlotsAreHeldToTheEnd) {
  EXPECT_TRUE(checkPlan(twoSlots()).ok()) << checkPlan(twoSlots()).toString();
  auto refused = [](const char *because,
                    const std::function<void(plan::Plan &)> &change) {
    plan::Plan p = twoSlots();
    change(p);
    std::string text = checkPlan(p).toString();
    EXPECT_NE(text.find(because), std::string::npos)
        << "wanted: " << because << "\ngot: " << text;
  };
  auto setStride = [](plan::Plan &p, int64_t stride) {
    for (plan::Slice *slice : {p.mutable_programs(0)
                                   ->mutable_instructions(0)
                                   ->mutable_fill()
                                   ->mutable_slice(),
                               p.mutable_programs(1)
                                   ->mutable_instructions(0)
                                   ->mutable_copy()
                                   ->mutable_source()})
      slice->mutable_offset()->mutable_terms(0)->set_coefficient(stride);
  };
  refused("call 2: program backward, micro-batch 0, reads bytes [0, 64) of "
          "allocation 0 (saved), which chunk 0, micro-batch 1, has written "
          "over",
          [](auto &p) {
            p.mutable_schedules(0)->mutable_calls(1)->set_slots(0, 0);
          });
  refused("reads bytes [32, 64) of allocation 0 (saved), which chunk 0, "
          "micro-batch 1, has written over",
          [&](auto &p) { setStride(p, 32); });
  refused("call 2: program backward, micro-batch 0, reads bytes [64, 128) of "
          "allocation 0 (saved), which chunk 0, micro-batch 1, has written "
          "over",
          [](auto &p) {
            p.mutable_schedules(0)->mutable_calls(2)->set_slots(0, 1);
          });
  refused("call 0: program backward, micro-batch 0, reads bytes [0, 64) of "
          "allocation 0 (saved), which nothing has written before it",
          [](auto &p) {
            p.mutable_schedules(0)->mutable_calls()->SwapElements(0, 2);
          });
  refused("program backward, micro-batch 0, reads bytes [0, 64) of allocation "
          "0 (saved), which it has not written before",
          [](auto &p) {
            p.mutable_allocations(0)->set_contents(plan::Allocation::SCRATCH);
          });
  // Each alone is a place: of a slot that is 0 everywhere.
  refused("offset in allocation 0 (saved) overflows", [&](auto &p) {
    for (plan::Call &call : *p.mutable_schedules(0)->mutable_calls())
      call.set_slots(0, 0);
    auto *offset = p.mutable_programs(0)
                       ->mutable_instructions(0)
                       ->mutable_fill()
                       ->mutable_slice()
                       ->mutable_offset();
    *offset->add_terms() = offset->terms(0);
    for (plan::Linear::Term &term : *offset->mutable_terms())
      term.set_coefficient(std::numeric_limits<int64_t>::max());
  });
  refused("offset in allocation 0 (saved) overflows or is negative in part",
          [](auto &p) {
            auto *offset = p.mutable_programs(1)
                               ->mutable_instructions(0)
                               ->mutable_copy()
                               ->mutable_source()
                               ->mutable_offset();
            offset->set_constant(64);
            offset->mutable_terms(0)->set_coefficient(-64);
          });
  refused("depends on symbol m, which is no slot", [](auto &p) {
    plan::Symbol *symbol = p.add_symbols();
    symbol->set_kind(plan::Symbol::MICRO_BATCH);
    symbol->set_name("m");
    symbol->set_maximum(1);
    auto *fill = p.mutable_programs(0)->add_instructions()->mutable_fill();
    setSlice(fill->mutable_slice(), 0, 128, 64);
    fill->mutable_slice()->mutable_offset()->add_terms()->set_symbol(1);
  });
  refused("schedule train, call 0: 1 slots for 0 symbols", [](auto &p) {
    p.mutable_symbols(0)->set_kind(plan::Symbol::MICRO_BATCH);
  });
  refused("schedule train, call 3: slot 0 is 2, beyond [0, 1]", [](auto &p) {
    p.mutable_schedules(0)->mutable_calls(3)->set_slots(0, 2);
  });
}

/// The same, and the backward fills 64 bytes at a second slot: before the copy
/// or after it.
static plan::Plan fillingPlan(bool first, int64_t secondSlot) {
  plan::Plan p = twoSlots();
  *p.add_symbols() = p.symbols(0);
  p.mutable_symbols(1)->set_name("second");
  p.mutable_symbols(1)->set_maximum(2);
  for (plan::Call &call : *p.mutable_schedules(0)->mutable_calls())
    call.add_slots(secondSlot >= 0 ? secondSlot : call.slots(0));
  plan::Program *backward = p.mutable_programs(1);
  auto *fill = backward->add_instructions()->mutable_fill();
  setSlice(fill->mutable_slice(), 0, 0, 64);
  auto *term = fill->mutable_slice()->mutable_offset()->add_terms();
  term->set_symbol(1);
  term->set_coefficient(64);
  if (first)
    backward->mutable_instructions()->SwapElements(0, 1);
  return p;
}

TEST(ArenaCheck, SlotsOfACallMayShareWhatIsDead) {
  // Its own saved bytes, when they have been read.
  EXPECT_TRUE(checkPlan(fillingPlan(false, -1)).ok())
      << checkPlan(fillingPlan(false, -1)).toString();
  EXPECT_NE(checkPlan(fillingPlan(true, -1))
                .toString()
                .find("schedule train of stage 0, call 2: program backward, "
                      "micro-batch 0: reads bytes [0, 64) of allocation 0 "
                      "(saved), which it has written through another slot"),
            std::string::npos)
      << checkPlan(fillingPlan(true, -1)).toString();
  // Those of the other micro-batch, which has still to read them.
  EXPECT_NE(checkPlan(fillingPlan(false, 1))
                .toString()
                .find("call 3: program backward, micro-batch 1, reads bytes "
                      "[64, 128) of allocation 0 (saved), which chunk 0, "
                      "micro-batch 0, has written over"),
            std::string::npos)
      << checkPlan(fillingPlan(false, 1)).toString();
}
