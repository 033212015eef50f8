// The text form of PipelineSchedule.h.
#include "passes/plan/PipelineSchedule.h"

#include <charconv>
#include <fstream>
#include <set>
#include <sstream>

using namespace lmc::plan;
using Work = PipelineTask::Work;

std::string lmc::plan::printTask(const PipelineShape &shape,
                                 const PipelineTask &task) {
  static constexpr char letters[] = {'F', 'B', 'B', 'W'};
  std::string name = letters[task.work] + std::to_string(task.microBatch);
  if (shape.virtualStages > 1)
    name += "." + std::to_string(task.chunk);
  return name;
}

std::string lmc::plan::printSchedule(const PipelineSchedule &schedule) {
  std::string text;
  if (schedule.slots > 0)
    text += "slots " + std::to_string(schedule.slots) + "\n";
  for (size_t stage = 0; stage < schedule.stages.size(); ++stage) {
    text += "stage " + std::to_string(stage) + ":";
    for (const PipelineTask &task : schedule.stages[stage])
      text += " " + printTask(schedule.shape, task);
    text += "\n";
  }
  return text;
}

// Takes a number off the front of `text`.
static std::optional<int64_t> takeNumber(std::string_view &text) {
  int64_t value = 0;
  auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0)
    return std::nullopt;
  text.remove_prefix(size_t(end - text.data()));
  return value;
}

// A piece of the file for a message: on a terminal it does nothing, and it
// fits a line.
static std::string quoted(std::string_view text) {
  constexpr size_t longest = 60;
  std::string printable;
  for (char c : text.substr(0, longest)) {
    constexpr char digits[] = "0123456789abcdef";
    if (c >= ' ' && c <= '~')
      printable += c;
    else
      printable += {'\\', 'x', digits[(c >> 4) & 15], digits[c & 15]};
  }
  return "'" + printable + (text.size() > longest ? "...'" : "'");
}

// Why `text` is no text at all; empty if it is.
static std::string checkText(std::string_view text) {
  if (text.empty())
    return "the file is empty";
  for (size_t at = 0; at < text.size(); ++at)
    if (unsigned char c = static_cast<unsigned char>(text[at]);
        (c < ' ' && c != '\t' && c != '\n' && c != '\r') || c == 0x7f)
      return "this is no schedule file: byte " + std::to_string(at) + " is " +
             quoted(text.substr(at, 1));
  return "";
}

// A task as printSchedule writes it.
static std::optional<PipelineTask>
parseTask(std::string_view word, const PipelineShape &shape, int64_t stage) {
  static constexpr std::string_view letters = "FBW";
  static constexpr Work works[] = {
      PipelineTask::Forward, PipelineTask::Backward, PipelineTask::WeightHalf};
  size_t letter = letters.find(word.front());
  if (letter == std::string_view::npos)
    return std::nullopt;
  word.remove_prefix(1);
  PipelineTask task{works[letter], 0, stage};
  std::optional<int64_t> number = takeNumber(word);
  if (!number)
    return std::nullopt;
  task.microBatch = *number;
  if (word.empty())
    return shape.virtualStages == 1 ? std::optional(task) : std::nullopt;
  if (word.front() != '.')
    return std::nullopt;
  word.remove_prefix(1);
  if (!(number = takeNumber(word)) || !word.empty())
    return std::nullopt;
  task.chunk = *number;
  return task;
}

std::optional<PipelineSchedule>
lmc::plan::parseSchedule(std::string_view text, const PipelineShape &shape,
                         std::string &error) {
  PipelineSchedule schedule{shape, {}, 0};
  schedule.stages.resize(size_t(shape.stages));
  std::vector<bool> isThere(size_t(shape.stages));
  int64_t lineNumber = 0;
  auto fail = [&](const std::string &what) {
    error = "line " + std::to_string(lineNumber) + ": " + what;
    return std::nullopt;
  };
  if (error = checkText(text); !error.empty())
    return std::nullopt;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    ++lineNumber;
    if (!line.empty() && line.back() == '\r')
      line.pop_back();
    std::istringstream words(line.substr(0, line.find('#')));
    std::string head, word;
    if (!(words >> head))
      continue;
    words >> word;
    std::string_view rest = word;
    std::optional<int64_t> number = takeNumber(rest);
    if (head == "slots" && number && rest.empty()) {
      if (*number < 1)
        return fail("a chunk needs at least 1 slot, not " + word);
      if (schedule.slots > 0)
        return fail("slots is there twice");
      schedule.slots = *number;
      continue;
    }
    if (head != "stage" || !number || rest != ":")
      return fail("expected 'stage NUMBER:' or 'slots NUMBER', not " +
                  quoted(line));
    if (*number >= shape.stages)
      return fail("stage " + std::to_string(*number) + " of a pipeline of " +
                  std::to_string(shape.stages));
    if (isThere[size_t(*number)])
      return fail("stage " + std::to_string(*number) + " is there twice");
    isThere[size_t(*number)] = true;
    while (words >> word) {
      std::optional<PipelineTask> task = parseTask(word, shape, *number);
      if (!task)
        return fail(quoted(word) + " is no task; F, B or W, the micro-batch" +
                    (shape.virtualStages > 1 ? ", a point and the chunk: F3." +
                                                   std::to_string(*number)
                                             : ": F3"));
      schedule.stages[size_t(*number)].push_back(*task);
    }
  }
  // Where weight halves follow, B is an input half.
  for (auto &tasks : schedule.stages) {
    std::set<int64_t> split;
    for (const PipelineTask &task : tasks)
      if (task.work == PipelineTask::WeightHalf)
        split.insert(task.chunk);
    for (PipelineTask &task : tasks)
      if (task.work == PipelineTask::Backward && split.count(task.chunk))
        task.work = PipelineTask::InputHalf;
  }
  for (size_t stage = 0; stage < isThere.size(); ++stage)
    if (!isThere[stage]) {
      error = "stage " + std::to_string(stage) + " is missing";
      return std::nullopt;
    }
  return schedule;
}

std::optional<PipelineSchedule>
lmc::plan::loadSchedule(const std::string &path, const PipelineShape &shape,
                        std::string &error) {
  std::ifstream file(path);
  std::stringstream text;
  // To a stream, copying nothing is a failure: an empty file stays out of it.
  if (file.peek() != std::ifstream::traits_type::eof())
    text << file.rdbuf();
  if (!file.is_open() || file.bad() || !text) {
    error = "cannot read the pipeline schedule '" + path +
            "'; help: gpipe, 1f1b, interleaved, zb or a file";
    return std::nullopt;
  }
  std::optional<PipelineSchedule> schedule =
      parseSchedule(text.str(), shape, error);
  if (schedule)
    error = checkSchedule(*schedule);
  else
    error += "; help: examples/pipeline.schedule shows what a schedule file is";
  if (error.empty())
    return schedule;
  error = "pipeline schedule " + path + ": " + error;
  return std::nullopt;
}
