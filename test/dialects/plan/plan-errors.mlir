// RUN: lmc-opt %s --split-input-file --verify-diagnostics

// symbol C1
module @symbol_c1 {
  // expected-error @+1 {{has kind day, expected micro_batch, slot, coordinate or size}}
  plan.symbol "d" day 0 to 3
}

// -----

// symbol C2
module @symbol_c2 {
  // expected-error @+1 {{has bounds 4 to 3}}
  plan.symbol "m" micro_batch 4 to 3
}

// -----

// symbol C3
module @symbol_c3 {
  // expected-error @+1 {{of kind coordinate names no axis}}
  plan.symbol "tp" coordinate 0 to 3
}

// -----

// allocation C1
module @allocation_c1 {
  // expected-error @+1 {{has contents heap, expected scratch}}
  plan.allocation @a heap 64
}

// -----

// allocation C2
module @allocation_c2 {
  // expected-error @+1 {{has 65 bytes, expected a multiple of 64}}
  plan.allocation @a scratch 65
}

// -----

// allocation C3
module @allocation_c3 {
  // expected-error @+1 {{has 65 bytes on a stage, expected a multiple of 64}}
  plan.allocation @a scratch 128 {stage_bytes = array<i64: 128, 65>}
}

// -----

// allocation C3
module @allocation_c3_largest {
  // expected-error @+1 {{has 128 bytes, its largest stage 64}}
  plan.allocation @a scratch 128 {stage_bytes = array<i64: 64, 64>}
}

// -----

// copy C1
module @copy_c1 {
  plan.allocation @a scratch 128
  plan.program @p chunk 0 {
    // expected-error @+1 {{copies 64 bytes to 32}}
    plan.copy <@a[0] 64> to <@a[64] 32>
  }
}

// -----

// collective C1
module @collective_c1 {
  plan.allocation @a scratch 128
  plan.program @p chunk 0 {
    // expected-error @+1 {{has kind whisper, expected one of all_reduce}}
    plan.collective whisper sum f32 axes [0] <@a[0] 64> to <@a[0] 64>
  }
}
