// See Metrics.h.
#include "runtime/train/Metrics.h"
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>

namespace lmc::runtime {

MetricsLog::MetricsLog(const TrainOptions &options)
    : options(options), progressBar(isatty(STDERR_FILENO)) {}

StatusOr<std::unique_ptr<MetricsLog>>
MetricsLog::create(const TrainOptions &options) {
  std::unique_ptr<MetricsLog> log(new MetricsLog(options));
  if (!options.metricsPath.empty()) {
    log->file = std::fopen(options.metricsPath.c_str(), "ae");
    if (!log->file)
      return wrongInput("cannot write metrics to {}: {}", options.metricsPath,
                        std::strerror(errno));
  }
  LMC_ASSIGN_OR_RETURN(
      log->writer,
      startThread("lmc-metrics", [self = log.get()] { self->writerLoop(); }));
  return log;
}

/// The step that a line is of; none in a line that is not ours, which stays.
static std::optional<int64_t> stepOf(const std::string &line) {
  auto parsed = nlohmann::json::parse(line, nullptr, /*exceptions=*/false);
  if (!parsed.is_object() || !parsed.contains("step") ||
      !parsed["step"].is_number_integer())
    return std::nullopt;
  return parsed["step"].get<int64_t>();
}

Status MetricsLog::beginAfter(int64_t step) {
  struct stat info;
  if (!file || ::fstat(::fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
    return Status();
  // A run that was killed may have left half a line at the end, which goes.
  std::ifstream lines(options.metricsPath);
  off_t kept = 0;
  for (std::string line;
       options.resume && std::getline(lines, line) && !lines.eof();
       kept += off_t(line.size()) + 1)
    if (std::optional<int64_t> its = stepOf(line); its && *its > step)
      break;
  if (kept < info.st_size && ::ftruncate(::fileno(file), kept) != 0)
    return wrongInput("cannot cut metrics in {} behind step {}: {}",
                      options.metricsPath, step, std::strerror(errno));
  return Status();
}

MetricsLog::~MetricsLog() {
  if (writer.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      closing = true;
    }
    changed.notify_all();
    writer.join();
  }
  if (file)
    std::fclose(file);
}

void MetricsLog::push(const Event &event) {
  {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return pushed - written < ring.size(); });
    ring[pushed++ % ring.size()] = event;
  }
  changed.notify_all();
}

void MetricsLog::step(const StepMetrics &metrics) { push({false, metrics}); }

void MetricsLog::evaluation(int64_t step, double loss) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = loss;
  push({true, metrics});
}

Status MetricsLog::finish() {
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return written == pushed; });
  clearProgress();
  return failure;
}

void MetricsLog::writerLoop() {
  std::unique_lock<std::mutex> lock(mutex);
  while (true) {
    changed.wait(lock, [&] { return closing || written != pushed; });
    if (written == pushed)
      return; // closing, and nothing is left
    Event event = ring[written % ring.size()];
    lock.unlock();
    if (event.isEvaluation)
      writeEvaluation(event.metrics.step, event.metrics.loss);
    else
      writeStep(event.metrics);
    lock.lock();
    ++written;
    changed.notify_all();
  }
}

void MetricsLog::writeToFile(const std::string &line) {
  if (!file)
    return;
  if (std::fwrite(line.data(), 1, line.size(), file) == line.size() &&
      std::fflush(file) == 0)
    return;
  if (failure.ok()) {
    failure = fileError("write", options.metricsPath);
    logWarning("{}; training goes on", failure.message());
  }
}

void MetricsLog::print(const std::string &line) {
  clearProgress();
  if (std::fwrite(line.data(), 1, line.size(), stdout) == line.size() &&
      std::fflush(stdout) == 0)
    return;
  // Who reads a pipe may have read enough.
  if (errno != EPIPE && failure.ok()) {
    failure = fileError("write to", "stdout");
    logWarning("{}; training goes on", failure.message());
  }
}

static nlohmann::json number(double value) {
  // JSON has no NaN.
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

void MetricsLog::writeStep(const StepMetrics &m) {
  double seconds = m.stepMs / 1e3;
  nlohmann::json json = {{"step", m.step},
                         {"loss", number(m.loss)},
                         {"grad_norm", number(m.gradNorm)},
                         {"lr", m.learningRate},
                         {"tokens_per_second", double(m.tokens) / seconds},
                         {"step_ms", m.stepMs},
                         {"tokens", m.step * m.tokens}};
  writeToFile(json.dump() + "\n");
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

void MetricsLog::writeEvaluation(int64_t step, double loss) {
  double perplexity = std::exp(std::min(loss, 700.0));
  nlohmann::json json = {{"step", step},
                         {"eval_loss", number(loss)},
                         {"eval_perplexity", number(perplexity)}};
  writeToFile(json.dump() + "\n");
  print(options.jsonLog
            ? json.dump() + "\n"
            : fmt::format(" validation loss at iteration {} | lm loss value: "
                          "{:.6E} | lm loss PPL: {:.6E} |\n",
                          step, loss, perplexity));
}

void MetricsLog::clearProgress() {
  if (barShown)
    printLines("\r\033[K");
  barShown = false;
}

} // namespace lmc::runtime
