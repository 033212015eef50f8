// See Metrics.h.
#include "runtime/train/Metrics.h"
#include "runtime/base/Log.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace lmc::runtime {

MetricsLog::MetricsLog(const TrainOptions &options)
    : options(options), progressBar(isatty(STDERR_FILENO)) {}

StatusOr<MetricsLog> MetricsLog::create(const TrainOptions &options) {
  MetricsLog log(options);
  if (!options.metricsPath.empty()) {
    log.file =
        std::fopen(options.metricsPath.c_str(), options.resume ? "ae" : "we");
    if (!log.file)
      return wrongInput("cannot write metrics to {}: {}", options.metricsPath,
                        std::strerror(errno));
  }
  return std::move(log);
}

MetricsLog::MetricsLog(MetricsLog &&other) noexcept
    : options(std::move(other.options)), file(other.file),
      progressBar(other.progressBar) {
  other.file = nullptr;
}

MetricsLog::~MetricsLog() {
  if (file)
    std::fclose(file);
}

void MetricsLog::print(const std::string &line) {
  finish();
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

static nlohmann::json number(double value) {
  // JSON has no NaN.
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

void MetricsLog::step(const StepMetrics &m) {
  double seconds = m.stepMs / 1e3;
  nlohmann::json json = {{"step", m.step},
                         {"loss", number(m.loss)},
                         {"grad_norm", number(m.gradNorm)},
                         {"lr", m.learningRate},
                         {"tokens_per_second", double(m.tokens) / seconds},
                         {"step_ms", m.stepMs},
                         {"tokens", m.step * m.tokens}};
  if (file) {
    std::string line = json.dump() + "\n";
    std::fwrite(line.data(), 1, line.size(), file);
    std::fflush(file);
  }
  bool due = m.step % options.logInterval == 0 || m.step == m.steps;
  if (due && options.jsonLog) {
    print(json.dump() + "\n");
  } else if (due) {
    std::string line = fmt::format(
        " iteration {:8}/{:8} | consumed samples: {:12} | elapsed time per "
        "iteration (ms): {:.1f} | ",
        m.step, m.steps, m.step * m.globalBatch, m.stepMs);
    if (m.teraflopsPerRank > 0)
      line += fmt::format("throughput per GPU (TFLOP/s/GPU): {:.3f} | ",
                          m.teraflopsPerRank);
    line += fmt::format(
        "learning rate: {:.6E} | global batch size: {:5} | lm loss: {:.6E} | "
        "loss scale: {:.1f} | grad norm: {:.3f} | number of skipped "
        "iterations: {:3} | number of nan iterations:   0 |\n",
        m.learningRate, m.globalBatch, m.loss, m.lossScale, m.gradNorm,
        m.skipped);
    print(line);
  }
  if (progressBar)
    showProgress(m);
}

void MetricsLog::showProgress(const StepMetrics &m) {
  smoothedMs = smoothedMs == 0 ? m.stepMs : 0.9 * smoothedMs + 0.1 * m.stepMs;
  int filled = m.steps > 0 ? int(30 * m.step / m.steps) : 0;
  int64_t left = int64_t(double(m.steps - m.step) * smoothedMs / 1e3);
  printLines(fmt::format(
      "\r[{}{}] {}/{}  loss {:.4f}  {:.0f} tokens/s  {}:{:02} left ",
      std::string(size_t(filled), '#'), std::string(size_t(30 - filled), '.'),
      m.step, m.steps, m.loss, double(m.tokens) / m.stepMs * 1e3, left / 60,
      left % 60));
  barShown = true;
}

void MetricsLog::evaluation(int64_t step, double loss) {
  double perplexity = std::exp(std::min(loss, 700.0));
  nlohmann::json json = {{"step", step},
                         {"eval_loss", number(loss)},
                         {"eval_perplexity", number(perplexity)}};
  if (file) {
    std::string line = json.dump() + "\n";
    std::fwrite(line.data(), 1, line.size(), file);
    std::fflush(file);
  }
  print(options.jsonLog
            ? json.dump() + "\n"
            : fmt::format(" validation loss at iteration {} | lm loss value: "
                          "{:.6E} | lm loss PPL: {:.6E} |\n",
                          step, loss, perplexity));
}

void MetricsLog::finish() {
  if (barShown)
    printLines("\r\033[K");
  barShown = false;
}

} // namespace lmc::runtime
