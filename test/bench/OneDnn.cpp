// oneDNN's matrix product; see OneDnn.h.
#include "test/bench/OneDnn.h"

#include <dnnl.hpp>

using namespace lmc::bench;

struct OneDnnProduct::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::memory a, b, packedB, c;
  dnnl::matmul product;
  dnnl::reorder reorder;
  bool packs = false;
};

OneDnnProduct::OneDnnProduct(int64_t m, int64_t n, int64_t k, bool transposedA,
                             bool transposedB, bool packed)
    : state(std::make_unique<State>()) {
  using dnnl::memory;
  constexpr auto f32 = memory::data_type::f32;
  auto plain = [&](bool transposed) {
    return transposed ? memory::format_tag::ba : memory::format_tag::ab;
  };
  memory::desc a({m, k}, f32, plain(transposedA));
  memory::desc b({k, n}, f32, plain(transposedB));
  memory::desc liked({k, n}, f32,
                     packed ? memory::format_tag::any : plain(transposedB));
  memory::desc c({m, n}, f32, memory::format_tag::ab);
  dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, liked, c),
                                           state->engine);
  state->product = dnnl::matmul(description);
  state->a = memory(a, state->engine, nullptr);
  state->b = memory(b, state->engine, nullptr);
  state->c = memory(c, state->engine, nullptr);
  state->packs = packed && description.weights_desc() != b;
  if (state->packs) {
    state->packedB = memory(description.weights_desc(), state->engine);
    state->reorder = dnnl::reorder(state->b, state->packedB);
  }
}

OneDnnProduct::~OneDnnProduct() = default;

void OneDnnProduct::run(const float *a, const float *b, float *c) {
  State &s = *state;
  s.a.set_data_handle(const_cast<float *>(a));
  s.b.set_data_handle(const_cast<float *>(b));
  s.c.set_data_handle(c);
  if (s.packs)
    s.reorder.execute(s.stream, s.b, s.packedB);
  s.product.execute(s.stream, {{DNNL_ARG_SRC, s.a},
                               {DNNL_ARG_WEIGHTS, s.packs ? s.packedB : s.b},
                               {DNNL_ARG_DST, s.c}});
  s.stream.wait();
}
