// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-assigned

// B1
// expected-error @+1 {{is a program on tensors still}}
func.func @p() attributes {plan.program = "p"} {
  return
}

// -----

// B2: for the last micro-batch the slice ends behind the allocation.
plan.allocation @a scratch 128
plan.symbol "micro_batch" micro_batch 0 to 2
plan.program @p chunk 0 {
  // expected-error @+1 {{uses bytes [0, 192) of @a, which has 128}}
  plan.fill <@a[64 * micro_batch] 64>
}

// -----

// B2
plan.allocation @a input 64
plan.program @p chunk 0 {
  // expected-error @+1 {{writes @a, which holds input}}
  plan.fill <@a[0] 64>
}

// -----

// B3
plan.allocation @a scratch 128
plan.kernel @k(%x: tensor<16xf32>) -> tensor<16xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  plan.yield %x : tensor<16xf32>
}
plan.program @p chunk 0 {
  plan.fill <@a[0] 64>
  // expected-error @+1 {{gives operand 1 as write of 32 bytes, its kernel has write of 64}}
  plan.run @k (read @a[0] 64, write @a[64] 32)
}

// -----

// B4
plan.allocation @a scratch 128
plan.program @p chunk 0 {
  plan.fill <@a[0] 128>
  // expected-error @+1 {{writes operand 0 or 1, which overlap in @a}}
  plan.copy <@a[0] 64> to <@a[32] 64>
}

// -----

// B5
plan.allocation @a scratch 128
plan.allocation @b output 64
plan.program @p chunk 0 {
  plan.fill <@a[0] 32>
  // expected-error @+1 {{reads bytes [0, 64) of @a, which nothing in this call has written}}
  plan.copy <@a[0] 64> to <@b[0] 64>
}

// -----

// B6
plan.program @p chunk 0 {
}
plan.schedule "p" stage 0 {
  // expected-error @+1 {{calls @q, which is no program}}
  plan.call @q micro_batch 0 slot 0
}

// -----

// A plan in which all holds: two writes make what one reads.
plan.allocation @a scratch 128
plan.allocation @b output 128
plan.program @p chunk 0 {
  plan.fill <@a[0] 64>
  plan.fill <@a[64] 64>
  plan.copy <@a[0] 128> to <@b[0] 128>
}
plan.schedule "p" stage 0 {
  plan.call @p micro_batch 0 slot 0
}

// -----

// B2: a program's slices fit the allocation of its stage, and the slots that it
// is called with.
plan.allocation @a saved 192 {stage_bytes = array<i64: 192, 64>}
plan.symbol "slot" slot 0 to 2
plan.program @first chunk 0 {
  plan.fill <@a[64 * slot] 64>
}
plan.program @second chunk 1 {
  // expected-error @+1 {{uses bytes [0, 128) of @a, which has 64}}
  plan.fill <@a[64 * slot] 64>
}
plan.schedule "train" stage 0 {
  plan.call @first micro_batch 0 slot 0 {slot_values = array<i64: 2>}
}
plan.schedule "train" stage 1 {
  plan.call @second micro_batch 0 slot 0 {slot_values = array<i64: 1>}
}

// -----

// B6: a call says what each slot is, within its bounds.
plan.symbol "slot.0" slot 0 to 2
plan.program @p chunk 0 {
}
plan.schedule "p" stage 0 {
  // expected-error @+1 {{gives 0 slot values for 1 symbols}}
  plan.call @p micro_batch 0 slot 0
}

// -----

// B6
plan.symbol "slot.0" slot 0 to 2
plan.program @p chunk 0 {
}
plan.schedule "p" stage 0 {
  // expected-error @+1 {{gives "slot.0" the value 3, which is out of its bounds}}
  plan.call @p micro_batch 0 slot 0 {slot_values = array<i64: 3>}
}
