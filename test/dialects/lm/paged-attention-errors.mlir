// The laws of the cache's operations, one broken at a time.
// RUN: lmc-opt %s --split-input-file --verify-diagnostics

// cache_write C1: qkv has tokens, groups, slots and width, at least one query.
func.func @cache_write_c1(%c: tensor<64x2x2x16xf32>, %x: tensor<?x2x2x16xf32>, %s: tensor<?xi32>) {
  // expected-error@+1 {{qkv has shape [?, 2, 2, 16], expected [T, G, R+2, K] with R >= 1 (C1)}}
  %0 = lm.cache_write %c, %x, %s : (tensor<64x2x2x16xf32>, tensor<?x2x2x16xf32>, tensor<?xi32>) -> tensor<64x2x2x16xf32>
  return
}

// -----

// cache_write C1: the cache has the groups and the width of qkv.
func.func @cache_write_c1_width(%c: tensor<64x2x2x8xf32>, %x: tensor<?x2x3x16xf32>, %s: tensor<?xi32>) {
  // expected-error@+1 {{cache (C1) has shape [64, 2, 2, 8], expected [64, 2, 2, 16]}}
  %0 = lm.cache_write %c, %x, %s : (tensor<64x2x2x8xf32>, tensor<?x2x3x16xf32>, tensor<?xi32>) -> tensor<64x2x2x8xf32>
  return
}

// -----

// cache_write C2: the new cache is of the old one's type.
func.func @cache_write_c2(%c: tensor<64x2x2x16xf32>, %x: tensor<?x2x3x16xf32>, %s: tensor<?xi32>) {
  // expected-error@+1 {{result is of type 'tensor<32x2x2x16xf32>', the cache of 'tensor<64x2x2x16xf32>' (C2)}}
  %0 = lm.cache_write %c, %x, %s : (tensor<64x2x2x16xf32>, tensor<?x2x3x16xf32>, tensor<?xi32>) -> tensor<32x2x2x16xf32>
  return
}

// -----

// paged_attention C1: a page table has a row per sequence.
func.func @paged_attention_c1(%x: tensor<?x2x3x16xf32>, %c: tensor<64x2x2x16xf32>, %p: tensor<?xi32>, %t: tensor<8xi32>) {
  // expected-error@+1 {{pages have shape [8], expected [S, P] (C1)}}
  %0 = lm.paged_attention %x, %c, %p, %p, %t {page_size = 16 : i64, scale = 1.0 : f32} : (tensor<?x2x3x16xf32>, tensor<64x2x2x16xf32>, tensor<?xi32>, tensor<?xi32>, tensor<8xi32>) -> tensor<?x2x1x16xf32>
  return
}

// -----

// paged_attention C2: pages part the rows of the cache.
func.func @paged_attention_c2(%x: tensor<?x2x3x16xf32>, %c: tensor<64x2x2x16xf32>, %p: tensor<?xi32>, %t: tensor<3x8xi32>) {
  // expected-error@+1 {{pages of 24 tokens do not part 64 rows of the cache (C2)}}
  %0 = lm.paged_attention %x, %c, %p, %p, %t {page_size = 24 : i64, scale = 1.0 : f32} : (tensor<?x2x3x16xf32>, tensor<64x2x2x16xf32>, tensor<?xi32>, tensor<?xi32>, tensor<3x8xi32>) -> tensor<?x2x1x16xf32>
  return
}

// -----

// paged_attention C3: the result has the query heads alone.
func.func @paged_attention_c3(%x: tensor<?x2x3x16xf32>, %c: tensor<64x2x2x16xf32>, %p: tensor<?xi32>, %t: tensor<3x8xi32>) {
  // expected-error@+1 {{result (C3) has shape [?, 2, 3, 16], expected [?, 2, 1, 16]}}
  %0 = lm.paged_attention %x, %c, %p, %p, %t {page_size = 16 : i64, scale = 1.0 : f32} : (tensor<?x2x3x16xf32>, tensor<64x2x2x16xf32>, tensor<?xi32>, tensor<?xi32>, tensor<3x8xi32>) -> tensor<?x2x3x16xf32>
  return
}
