// See InspectHtml.h.
#include "tools/lmc/InspectHtml.h"

#include "tools/lmc/InspectMesh.h"
#include "tools/lmc/InspectReshards.h"

#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"

#include <algorithm>
#include <cmath>
#include <iterator>

using namespace lmc;

namespace {

// Pixels.
constexpr double kLeft = 90, kWidth = 1010, kRow = 26, kCurve = 150;
// More bars than pixels would be unreadable and large.
constexpr int kMaxCalls = 4000;

const char *const kStyle = R"(
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1120px;
       padding: 0 1em; color: #1c2330; background: #fff; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 2em; }
p, figcaption { max-width: 75ch; color: #4a5568; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11px system-ui, sans-serif; fill: #1c2330; }
svg .axis { stroke: #cbd2dc; stroke-width: 1; }
svg .in { fill: #fff; text-anchor: middle; pointer-events: none; }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
.forward { fill: #3b76b8; } .backward { fill: #b4552d; }
.weight { fill: #c89b2b; } .once { fill: #7a8699; }
.fixed { fill: #dfe4ea; } .saved { fill: #8fb3d9; } .scratch { fill: #e3b7a0; }
.limit { stroke: #a12d2d; stroke-width: 1; stroke-dasharray: 4 3; fill: none; }
.key { display: inline-block; width: 1em; height: 1em; vertical-align: -2px;
       margin: 0 .3em 0 1em; }
.key.forward { background: #3b76b8; } .key.backward { background: #b4552d; }
.key.weight { background: #c89b2b; } .key.once { background: #7a8699; }
.key.fixed { background: #dfe4ea; } .key.saved { background: #8fb3d9; }
.key.scratch { background: #e3b7a0; }
table { border-collapse: collapse; margin-top: .6em; font-size: 13px; }
th, td { text-align: left; padding: 2px 14px 2px 0; border-bottom: 1px solid #e4e8ee;
         white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  body { background: #14181f; color: #e4e8ee; } svg text { fill: #e4e8ee; }
  p, figcaption { color: #a9b3c1; } svg .axis { stroke: #3a4350; }
  th, td { border-color: #2b323d; } .fixed { fill: #39414d; }
  .key.fixed { background: #39414d; }
}
)";

std::string escape(const std::string &text) {
  std::string out;
  for (char c : text)
    switch (c) {
    case '&':
      out += "&amp;";
      break;
    case '<':
      out += "&lt;";
      break;
    case '>':
      out += "&gt;";
      break;
    case '"':
      out += "&quot;";
      break;
    case '\'':
      out += "&#39;";
      break;
    default:
      // What XML cannot say at all.
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  return out;
}

std::string timeText(double seconds) {
  if (seconds < 1e-3)
    return fmt::format("{:.3g} µs", seconds * 1e6);
  return seconds < 1 ? fmt::format("{:.3g} ms", seconds * 1e3)
                     : fmt::format("{:.3g} s", seconds);
}

std::string bytes(int64_t count) { return runtime::formatBytes(double(count)); }

const char *classOf(const std::string &program) {
  if (program.rfind("forward", 0) == 0)
    return "forward";
  if (program.rfind("backward_weight", 0) == 0)
    return "weight";
  return program.rfind("backward", 0) == 0 ? "backward" : "once";
}

class Page {
public:
  Page(const plan::Plan &plan, const StepFacts &facts)
      : plan(plan), facts(facts) {}
  std::string write(const std::string &title);

private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args &&...args) {
    fmt::format_to(std::back_inserter(out), format,
                   std::forward<Args>(args)...);
  }
  double x(double time) const {
    return kLeft + (facts.times.step.length > 0
                        ? time / facts.times.step.length * kWidth
                        : 0);
  }
  void addTimeAxis(double top, double bottom);
  void addSchedule();
  void addCall(const StageFacts &stage, size_t index,
               const runtime::CallTime &time, double top);
  void addMemory();
  void addCurve(size_t stage);
  void addExchanges();
  void addReshards();
  void addShardings();
  void addSettings();
  std::string ranksOf(size_t stage) const;

  const plan::Plan &plan;
  const StepFacts &facts;
  std::string out;
};

} // namespace

// "0-3": those whose coordinate on pp, the slowest axis, is the stage.
std::string Page::ranksOf(size_t stage) const {
  int64_t each = runtime::worldSize(plan) / int64_t(facts.stages.size());
  int64_t first = int64_t(stage) * each;
  return each == 1 ? fmt::format("rank {}", first)
                   : fmt::format("ranks {}–{}", first, first + each - 1);
}

void Page::addTimeAxis(double top, double bottom) {
  for (int i = 0; i <= 5; ++i) {
    double time = facts.times.step.length * i / 5;
    add("<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" "
        "y2=\"{2}\"/><text class=\"mid\" x=\"{0:.1f}\" y=\"{3}\">{4}</text>\n",
        x(time), top, bottom, bottom + 14, timeText(time));
  }
}

void Page::addCall(const StageFacts &stage, size_t index,
                   const runtime::CallTime &time, double top) {
  const plan::Call &call = stage.schedule->calls(int(index));
  const plan::Program &program = plan.programs(int(call.program()));
  const char *kind = classOf(program.name());
  bool isOfMicroBatch = kind != std::string("once");
  double width = x(time.end) - x(time.begin);
  add("<g><title>{}{}, {} to {}</title><rect class=\"{}\" x=\"{:.2f}\" "
      "y=\"{}\" width=\"{:.2f}\" height=\"{}\"/>",
      escape(program.name()),
      isOfMicroBatch ? fmt::format(", micro-batch {}", call.micro_batch()) : "",
      timeText(time.begin), timeText(time.end), kind, x(time.begin), top + 2,
      std::max(width - 0.5, 0.2), kRow - 4);
  if (isOfMicroBatch && width > 14)
    add("<text class=\"in\" x=\"{:.1f}\" y=\"{}\">{}</text>",
        x(time.begin) + width / 2, top + kRow / 2 + 4, call.micro_batch());
  add("</g>\n");
}

void Page::addSchedule() {
  const StepTimes &times = facts.times;
  add("<h2>Schedule</h2>\n<p>One step, simulated: an instruction takes as long "
      "as its FLOPs or its bytes at fixed rates, whichever is more, so lengths "
      "compare with each other and with no clock.");
  if (facts.stages.size() > 1) {
    add(" Bubble {:.1f} % of the ideal time", 100 * times.bubble);
    if (times.formula)
      add("; {:.1f} % by the formula of {} for equal stages",
          100 * *times.formula, escape(times.scheduleName));
    add(".");
  }
  add(" Colours:<span class=\"key forward\"></span>forward<span class=\"key "
      "backward\"></span>backward<span class=\"key weight\"></span>its weight "
      "half<span class=\"key once\"></span>once in a step.</p>\n");
  double height = kRow * double(facts.stages.size());
  add("<svg id=\"schedule\" viewBox=\"0 0 {} {}\" role=\"img\" "
      "aria-label=\"ranks by time\">\n",
      kLeft + kWidth + 30, height + 24);
  addTimeAxis(0, height);
  for (size_t i = 0; i < facts.stages.size(); ++i) {
    double top = kRow * double(i);
    add("<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>\n", kLeft - 8,
        top + kRow / 2 + 4, ranksOf(i));
    size_t shown =
        std::min(times.step.stages[i].calls.size(), size_t(kMaxCalls));
    for (size_t c = 0; c < shown; ++c)
      addCall(facts.stages[i], c, times.step.stages[i].calls[c], top);
  }
  add("</svg>\n");
  for (const runtime::StageTime &stage : times.step.stages)
    if (stage.calls.size() > size_t(kMaxCalls)) {
      add("<p>The first {} calls of each stage are drawn.</p>\n", kMaxCalls);
      break;
    }
}

// Stacked: what is always there, saved values, scratch; the line is what is
// allocated.
void Page::addCurve(size_t index) {
  const StageFacts &stage = facts.stages[index];
  const StageMemory &memory = stage.memory;
  const std::vector<runtime::CallTime> &calls =
      facts.times.step.stages[index].calls;
  double most = double(std::max<int64_t>(memory.allocated, 1));
  auto y = [&](double value) { return 8 + kCurve * (1 - value / most); };
  add("<figure><figcaption>{}: {} allocated, {} of it always in use; {} slot{} "
      "of saved values</figcaption>\n<svg class=\"memory\" viewBox=\"0 0 {} "
      "{}\" role=\"img\" aria-label=\"memory of stage {}\">\n",
      ranksOf(index), bytes(memory.allocated), bytes(memory.fixed),
      memory.slots, memory.slots == 1 ? "" : "s", kLeft + kWidth + 30,
      kCurve + 34, index);
  addTimeAxis(8, 8 + kCurve);
  struct Layer {
    const char *name;
    bool saved, scratch;
  };
  for (Layer layer : {Layer{"scratch", true, true}, Layer{"saved", true, false},
                      Layer{"fixed", false, false}}) {
    add("<path class=\"{}\" d=\"M{:.1f},{:.1f}", layer.name, x(0), y(0));
    double level = y(double(memory.fixed));
    add(" V{:.1f}", level);
    size_t shown = std::min(calls.size(), size_t(kMaxCalls));
    for (size_t c = 0; c < shown; ++c) {
      const CallMemory &call = memory.calls[c];
      double before = double(memory.fixed), in = before;
      if (layer.saved) {
        in += double(call.saved);
        // Between two calls lies what both know to be alive.
        before += c == 0
                      ? 0
                      : double(std::min(call.saved, memory.calls[c - 1].saved));
      }
      if (layer.scratch)
        in += double(call.scratch);
      add(" V{:.1f} H{:.2f} V{:.1f} H{:.2f}", y(before), x(calls[c].begin),
          y(in), x(calls[c].end));
    }
    add(" V{:.1f} H{:.1f} V{:.1f} Z\"/>\n", y(double(memory.fixed)),
        x(facts.times.step.length), y(0));
  }
  add("<line class=\"limit\" x1=\"{}\" x2=\"{}\" y1=\"8\" y2=\"8\"/><text "
      "class=\"end\" x=\"{}\" y=\"12\">{}</text><text class=\"end\" x=\"{}\" "
      "y=\"{}\">0</text>\n</svg></figure>\n",
      kLeft, kLeft + kWidth, kLeft - 8, bytes(memory.allocated), kLeft - 8,
      8 + kCurve);
}

void Page::addMemory() {
  add("<h2>Memory</h2>\n<p>Bytes that hold something read later, over the "
      "step; the dashed line is what is allocated.<span class=\"key "
      "fixed\"></span>parameters, moments, gradients and the like<span "
      "class=\"key saved\"></span>saved values<span class=\"key "
      "scratch\"></span>scratch.</p>\n");
  for (size_t i = 0; i < facts.stages.size(); ++i)
    addCurve(i);
}

void Page::addExchanges() {
  add("<h2>Exchanges</h2>\n<p>Of one rank of each stage in a step. Bytes "
      "received are a ring's.</p>\n<table id=\"exchanges\"><thead><tr>"
      "<th>stage</th><th>kind</th><th class=\"number\">calls</th><th "
      "class=\"number\">bytes</th><th class=\"number\">received</th></tr>"
      "</thead><tbody>\n");
  for (size_t i = 0; i < facts.stages.size(); ++i) {
    runtime::Traffic traffic = sum(facts.stages[i].exchanges);
    for (int row = 0; row < runtime::trafficRows; ++row)
      if (const runtime::Traffic::Row &r = traffic.rows[size_t(row)];
          r.calls > 0)
        add("<tr><td>{}</td><td>{}</td><td class=\"number\">{}</td><td "
            "class=\"number\">{}</td><td class=\"number\">{}</td></tr>\n",
            i, runtime::trafficRowNames[row], r.calls, bytes(r.bytes),
            bytes(r.received));
  }
  add("</tbody></table>\n");
}

void Page::addReshards() {
  add("<h2>Reshards</h2>\n<p>Values that come to lie otherwise than they are "
      "made, because an operation needs them so: the axes of each dim, and "
      "those on which they are partial sums. The price is what the compiler "
      "minimises: bytes that a rank receives, each time.");
  if (plan.reshards_size() == 0) {
    add(" This plan has none.</p>\n");
    return;
  }
  add("</p>\n<table id=\"reshards\"><thead><tr><th>stage</th><th>in</th><th>"
      "value</th><th>from</th><th>to</th><th>by</th><th class=\"number\">price"
      "</th><th class=\"number\">calls</th><th>for</th></tr></thead><tbody>\n");
  for (size_t i = 0; i < facts.stages.size(); ++i)
    for (const StepReshard &reshard :
         reshardsOf(plan, *facts.stages[i].schedule, /*anyLayer=*/true)) {
      const plan::Reshard &change = *reshard.change;
      add("<tr><td>{}</td><td>{}</td><td>{} {}</td><td>{}</td><td>{}</td><td>{}"
          "</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}"
          "</td></tr>\n",
          i, reshard.program, escape(change.source()), escape(reshard.place),
          escape(change.from()), escape(change.to()), escape(stepsText(change)),
          bytes(change.received_bytes()), reshard.calls,
          escape(userText(reshard)));
    }
  add("</tbody></table>\n");
}

// The axes that split each dim, those that cut the bucket, and the stages.
void Page::addShardings() {
  add("<h2>Shardings</h2>\n<p>Every parameter, its moments and gradients: what "
      "of it lies on one rank.</p>\n<table id=\"shardings\"><thead><tr>"
      "<th>parameter</th><th>of</th><th>global shape</th><th>local shape</th>"
      "<th>axes of its dims</th><th>pieces over</th><th>stages</th></tr>"
      "</thead><tbody>\n");
  for (const plan::State &state : plan.states()) {
    if (state.kind() != plan::State::PARAMETER &&
        state.kind() != plan::State::MOMENT &&
        state.kind() != plan::State::ACCUMULATOR)
      continue;
    std::string axes;
    for (const plan::Linear &offset : state.local_offset()) {
      std::string dim;
      for (const plan::Linear::Term &term : offset.terms()) {
        const plan::Symbol &symbol = plan.symbols(int(term.symbol()));
        if (symbol.kind() == plan::Symbol::COORDINATE)
          dim += (dim.empty() ? "" : " ") +
                 plan.mesh().axes(int(symbol.axis())).name();
      }
      axes += (axes.empty() ? "" : ", ") + (dim.empty() ? "–" : dim);
    }
    bool isParameter = state.kind() == plan::State::PARAMETER;
    add("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td><td>{}</td></tr>\n",
        escape(isParameter || state.parameter().empty() ? state.name()
                                                        : state.parameter()),
        isParameter ? "parameter" : escape(state.role()),
        fmt::join(state.global_shape(), " × "),
        fmt::join(state.local_shape(), " × "), escape(axes),
        escape(sharedOver(plan, state)),
        state.stages_size() ? fmt::format("{}", fmt::join(state.stages(), ", "))
                            : "all");
  }
  add("</tbody></table>\n");
}

void Page::addSettings() {
  add("<p>{}; {} samples of {} tokens in a step, in {} micro-batch{} of {}. "
      "Made by lmc {}.</p>\n<table id=\"settings\"><tbody>\n",
      escape(plan.settings().count("model") ? plan.settings().at("model")
                                            : std::string("A model")),
      plan.global_batch(), plan.sequence_length(), plan.micro_batches(),
      plan.micro_batches() == 1 ? "" : "es", plan.micro_batch(),
      escape(plan.compiler_version()));
  for (const auto &[word, text] : meshLines(plan))
    add("<tr><th>{}</th><td>{}</td></tr>\n", word, escape(text));
  add("</tbody></table>\n");
}

std::string Page::write(const std::string &title) {
  add("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
      escape(title), kStyle);
  addSettings();
  if (facts.stages.empty()) {
    add("<p>The plan has no training step to draw.</p>\n");
  } else {
    addSchedule();
    addMemory();
    addExchanges();
    addReshards();
  }
  addShardings();
  add("</body>\n</html>\n");
  return std::move(out);
}

std::string lmc::htmlPage(const plan::Plan &plan, const StepFacts &facts,
                          const std::string &title) {
  return Page(plan, facts).write(title);
}
