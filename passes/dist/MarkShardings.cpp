// A strategy's rules, matched against the model: which few tensors are marked.
// Propagation does the rest.
#include "passes/dist/Passes.h"

#include "passes/dist/DimNames.h"
#include "passes/dist/ShardingTable.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/GlobPattern.h"

namespace lmc::dist {
#define GEN_PASS_DEF_MARKSHARDINGS
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

using Patterns = std::vector<llvm::GlobPattern>;

FailureOr<llvm::GlobPattern> parsePattern(Operation *rule, StringRef text) {
  llvm::Expected<llvm::GlobPattern> pattern = llvm::GlobPattern::create(text);
  if (!pattern)
    return rule->emitError()
           << "'" << text
           << "' is no pattern: " << llvm::toString(pattern.takeError());
  return *pattern;
}

LogicalResult parsePatterns(Operation *rule, ArrayAttr texts,
                            Patterns &patterns) {
  for (Attribute text : texts) {
    auto pattern = parsePattern(rule, cast<StringAttr>(text).getValue());
    if (failed(pattern))
      return failure();
    patterns.push_back(*pattern);
  }
  return success();
}

bool matchesAny(const Patterns &patterns, StringRef name) {
  return llvm::any_of(patterns, [&](const llvm::GlobPattern &pattern) {
    return pattern.match(name);
  });
}

std::string quoted(ArrayAttr patterns) {
  std::string all;
  for (Attribute pattern : patterns)
    all += (all.empty() ? "'" : ", '") +
           cast<StringAttr>(pattern).getValue().str() + "'";
  return all;
}

// The name of the layer that an operation comes from.
StringRef layerOf(Operation *op) {
  auto name = op->getLoc()->findInstanceOf<NameLoc>();
  return name ? name.getName().getValue() : StringRef();
}

class RuleMatcher {
public:
  RuleMatcher(RuleOp rule, MeshAttr mesh) : rule(rule), mesh(mesh) {}

  // Fails for an axis that the mesh lacks and for what is no pattern.
  LogicalResult read();
  LogicalResult matchParameter(Operation *state, StringRef name,
                               RankedTensorType type);
  LogicalResult matchInput(func::FuncOp function, unsigned index);
  LogicalResult matchResults(Operation *op, const DimNames &names);
  bool isFor(StringRef kind) { return rule.getKind() == kind; }
  // Rules whose axes all have size 1 have nothing to say.
  bool isActive() const { return !axes.empty(); }
  void warnIfUnused();
  int64_t getNumMarked() const { return marked; }
  bool splitsOver(StringRef axis) const {
    return marked > 0 && llvm::any_of(axes, [&](Attribute each) {
             return cast<StringAttr>(each).getValue() == axis;
           });
  }

private:
  bool matches(StringRef name) const { return matchesAny(patterns, name); }
  // The dim that the rule means, -1 if there is none.
  int64_t dimIn(const Names &names);
  LogicalResult checkSize(StringRef name, int64_t size, Location at);
  MarkAttr makeMark(int64_t result, int64_t dim);
  std::string placeOfRule();

  RuleOp rule;
  MeshAttr mesh;
  Patterns patterns;
  std::optional<llvm::GlobPattern> operation;
  SmallVector<Attribute> axes; // of more than one rank
  int64_t parts = 1;
  int64_t marked = 0;
};

LogicalResult RuleMatcher::read() {
  for (Attribute axis : rule.getAxes()) {
    StringRef name = cast<StringAttr>(axis).getValue();
    if (!llvm::is_contained(mesh.getAxes(), axis) || name == "pp") {
      InFlightDiagnostic error = rule.emitError()
                                 << "axis '" << name << "' splits no tensors";
      error.attachNote() << "help: "
                         << (name == "pp" ? "--stages cuts a pipeline"
                                          : "axes are dp, fsdp, cp, ep, tp");
      return error;
    }
    if (int64_t size = mesh.getSize(name); size > 1) {
      axes.push_back(axis);
      parts *= size;
    }
  }
  if (failed(parsePatterns(rule, rule.getPatterns(), patterns)))
    return failure();
  if (!rule.getProducer())
    return success();
  auto pattern = parsePattern(rule, *rule.getProducer());
  if (failed(pattern))
    return failure();
  operation = *pattern;
  return success();
}

int64_t RuleMatcher::dimIn(const Names &names) {
  int64_t number = 0;
  if (!rule.getDim().getAsInteger(10, number))
    return number >= 0 && number < int64_t(names.size()) ? number : -1;
  auto found = llvm::find(names, rule.getDim());
  return found == names.end() ? -1 : found - names.begin();
}

std::string RuleMatcher::placeOfRule() {
  auto place = dyn_cast<FileLineColLoc>(rule.getLoc());
  return place ? (place.getFilename().getValue() + ":" +
                  Twine(place.getLine()) + ":" + Twine(place.getColumn()))
                     .str()
               : "an unknown place";
}

LogicalResult RuleMatcher::checkSize(StringRef name, int64_t size,
                                     Location at) {
  if (size % parts == 0)
    return success();
  InFlightDiagnostic error = emitError(at) << "dim " << rule.getDim() << " of "
                                           << name << ", of size " << size
                                           << ", cannot be split into " << parts
                                           << " equal parts over axis ";
  llvm::interleave(
      axes, error,
      [&](Attribute axis) { error << cast<StringAttr>(axis).getValue(); },
      ", ");
  error.attachNote(rule.getLoc())
      << "the rule at " << placeOfRule() << " asks for it";
  error.attachNote() << "help: "
                     << (size == 1
                             ? "leave this split out: the dim has no parts"
                             : "choose a size of the axis that divides " +
                                   std::to_string(size));
  return error;
}

MarkAttr RuleMatcher::makeMark(int64_t result, int64_t dim) {
  ++marked;
  Builder b(rule.getContext());
  return MarkAttr::get(rule.getContext(), result, dim, b.getArrayAttr(axes),
                       rule.getPriority(), b.getStringAttr(placeOfRule()));
}

// `marks` and one more.
ArrayAttr append(Attribute marks, MarkAttr mark) {
  SmallVector<Attribute> list;
  if (auto old = dyn_cast_or_null<ArrayAttr>(marks))
    llvm::append_range(list, old);
  list.push_back(mark);
  return ArrayAttr::get(mark.getContext(), list);
}

LogicalResult RuleMatcher::matchParameter(Operation *state, StringRef name,
                                          RankedTensorType type) {
  int64_t dim = dimIn(readNames(state->getAttr(lm::kDimsAttr), type.getRank()));
  if (!matches(name) || dim < 0)
    return success();
  if (failed(checkSize(name, type.getDimSize(dim), state->getLoc())))
    return failure();
  state->setAttr(kMarksAttr,
                 append(state->getAttr(kMarksAttr), makeMark(0, dim)));
  return success();
}

LogicalResult RuleMatcher::matchInput(func::FuncOp function, unsigned index) {
  auto name = function.getArgAttrOfType<StringAttr>(index, lm::kInputAttr);
  auto type = cast<RankedTensorType>(function.getArgument(index).getType());
  if (!name || !matches(name.getValue()))
    return success();
  int64_t dim = dimIn(
      readNames(function.getArgAttr(index, lm::kDimsAttr), type.getRank()));
  if (dim < 0)
    return success();
  if (failed(checkSize(name, type.getDimSize(dim),
                       function.getArgument(index).getLoc())))
    return failure();
  function.setArgAttr(
      index, kMarksAttr,
      append(function.getArgAttr(index, kMarksAttr), makeMark(0, dim)));
  return success();
}

LogicalResult RuleMatcher::matchResults(Operation *op, const DimNames &names) {
  if (!matches(layerOf(op)) ||
      (operation && !operation->match(op->getName().getStringRef())))
    return success();
  // The rule means a dim of the first result. What lies beside it, such as a
  // norm's mean, is split alike where it has the same factor.
  int64_t first = op->getNumResults() ? dimIn(names.of(op->getResult(0))) : -1;
  if (first < 0)
    return success();
  std::optional<lm::ShardingRule> factors = lm::ruleOf(op);
  int64_t factor = factors ? factors->results[0][first] : -1;
  for (auto [index, result] : llvm::enumerate(op->getResults())) {
    int64_t dim = first;
    if (index > 0) {
      auto *found =
          factor < 0 ? nullptr : llvm::find(factors->results[index], factor);
      if (!found || found == factors->results[index].end())
        continue;
      dim = found - factors->results[index].begin();
    }
    int64_t size = cast<RankedTensorType>(result.getType()).getDimSize(dim);
    std::string name =
        layerOf(op).str() + " (" + op->getName().getStringRef().str() + ")";
    if (failed(checkSize(name, size, op->getLoc())))
      return failure();
    op->setAttr(kMarksAttr,
                append(op->getAttr(kMarksAttr), makeMark(index, dim)));
  }
  return success();
}

void RuleMatcher::warnIfUnused() {
  if (marked > 0 || !isActive() || rule.getIfPresent())
    return;
  InFlightDiagnostic warning = rule.emitWarning()
                               << "no " << rule.getKind() << " with a dim "
                               << rule.getDim() << " matches "
                               << quoted(rule.getPatterns());
  if (rule.getProducer())
    warning << " and comes from '" << *rule.getProducer() << "'";
}

// The axes of `list` that have more than one rank. Fails for those that do not
// number data ranks: what is the same on all ranks of an axis can be shared out
// among them.
LogicalResult keepDataAxes(BucketRuleOp rule, MeshAttr mesh, ArrayAttr &list) {
  SmallVector<Attribute> kept;
  for (Attribute axis : list) {
    StringRef name = cast<StringAttr>(axis).getValue();
    if (name != "dp" && name != "fsdp") {
      InFlightDiagnostic error =
          rule.emitError() << "axis '" << name
                           << "' does not share out the state of training";
      error.attachNote() << "help: the data axes, dp and fsdp, do";
      return error;
    }
    if (mesh.getSize(name) > 1)
      kept.push_back(axis);
  }
  list = ArrayAttr::get(rule.getContext(), kept);
  return success();
}

// Gives each parameter the pieces of the first rule that matches it.
LogicalResult markPieces(ModuleOp module, MeshAttr mesh) {
  llvm::DenseSet<Operation *> matched;
  for (auto rule : module.getOps<BucketRuleOp>()) {
    Patterns patterns;
    if (failed(parsePatterns(rule, rule.getPatterns(), patterns)))
      return failure();
    PiecesAttr pieces = rule.getPieces();
    ArrayAttr parameters = pieces.getParameters(),
              gradients = pieces.getGradients(), moments = pieces.getMoments();
    for (ArrayAttr *list : {&parameters, &gradients, &moments})
      if (failed(keepDataAxes(rule, mesh, *list)))
        return failure();
    bool isUsed = false, isFirst = false;
    for (auto parameter : module.getOps<lm::ParameterOp>()) {
      if (!matchesAny(patterns, parameter.getSymName()))
        continue;
      isUsed = true;
      if (!matched.insert(parameter).second)
        continue;
      isFirst = true;
      if (!moments.empty())
        parameter->setAttr(
            kPiecesAttr,
            PiecesAttr::get(rule.getContext(), parameters, gradients, moments));
    }
    if (moments.empty() || isFirst || (!isUsed && rule.getIfPresent()))
      continue;
    InFlightDiagnostic warning = rule.emitWarning();
    if (isUsed) {
      warning << "every parameter that " << quoted(rule.getPatterns())
              << " matches belongs to an earlier bucket";
      warning.attachNote() << "help: put this bucket before that one, or leave "
                              "it out";
    } else {
      warning << "no parameter matches " << quoted(rule.getPatterns());
    }
  }
  return success();
}

// An axis beside the data axes that splits no tensor wastes its ranks.
void warnOfIdleAxes(ModuleOp module, MeshAttr mesh,
                    ArrayRef<RuleMatcher> matchers) {
  for (StringRef axis : {"cp", "ep", "tp"}) {
    if (mesh.getSize(axis) == 1 ||
        llvm::any_of(matchers, [&](const RuleMatcher &matcher) {
          return matcher.splitsOver(axis);
        }))
      continue;
    InFlightDiagnostic warning =
        module.emitWarning() << "axis " << axis << " of " << mesh.getSize(axis)
                             << " ranks splits nothing: its ranks compute the "
                                "same";
    warning.attachNote() << "help: a rule that splits a dim over " << axis
                         << ", or a mesh without it";
  }
}

struct MarkShardings : lmc::dist::impl::MarkShardingsBase<MarkShardings> {
  using MarkShardingsBase::MarkShardingsBase;

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

  LogicalResult run() {
    ModuleOp module = getOperation();
    SmallVector<RuleOp> rules(module.getOps<RuleOp>());
    auto eraseRules = llvm::make_scope_exit([&] {
      for (RuleOp rule : rules)
        rule.erase();
      for (auto rule :
           llvm::make_early_inc_range(module.getOps<BucketRuleOp>()))
        rule.erase();
    });
    if (sizes.empty())
      return success();
    if (sizes.size() != std::size(kMeshAxes))
      return module.emitError() << "needs " << std::size(kMeshAxes)
                                << " axis sizes, has " << sizes.size();
    Builder b(&getContext());
    auto mesh =
        MeshAttr::getChecked([&] { return module.emitError(); }, &getContext(),
                             b.getStrArrayAttr(SmallVector<StringRef>(
                                 std::begin(kMeshAxes), std::end(kMeshAxes))),
                             b.getDenseI64ArrayAttr(sizes));
    if (!mesh)
      return failure();
    std::vector<RuleMatcher> matchers;
    for (RuleOp rule : rules) {
      matchers.emplace_back(rule, mesh);
      if (failed(matchers.back().read()))
        return failure();
    }
    if (failed(markPieces(module, mesh)))
      return failure();
    if (mesh.getNumRanks() == 1)
      return success();
    module->setAttr(kMeshAttr, mesh);
    for (RuleMatcher &matcher : matchers)
      if (matcher.isActive() && matcher.isFor("parameter"))
        for (auto parameter : module.getOps<lm::ParameterOp>())
          if (failed(matcher.matchParameter(parameter, parameter.getSymName(),
                                            parameter.getTensorType())))
            return failure();
    for (auto function : module.getOps<func::FuncOp>())
      if (failed(markInputs(function, matchers, mesh)))
        return failure();
    if (failed(markActivations(module, matchers)))
      return failure();
    for (RuleMatcher &matcher : matchers) {
      matcher.warnIfUnused();
      numMarked += matcher.getNumMarked();
    }
    warnOfIdleAxes(module, mesh, matchers);
    return success();
  }

  LogicalResult markInputs(func::FuncOp function,
                           MutableArrayRef<RuleMatcher> matchers,
                           MeshAttr mesh) {
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i) {
      if (!function.getArgAttr(i, lm::kInputAttr))
        continue;
      for (RuleMatcher &matcher : matchers)
        if (matcher.isActive() && matcher.isFor("input") &&
            failed(matcher.matchInput(function, i)))
          return failure();
      function.setArgAttr(i, kClosedAttr, UnitAttr::get(&getContext()));
      if (failed(checkInput(function, i, mesh)))
        return failure();
    }
    return success();
  }

  // Of the forward's results; gradients follow.
  LogicalResult markActivations(ModuleOp module,
                                MutableArrayRef<RuleMatcher> matchers) {
    SmallVector<RuleMatcher *> wanted;
    for (RuleMatcher &matcher : matchers)
      if (matcher.isActive() && matcher.isFor("activation"))
        wanted.push_back(&matcher);
    if (wanted.empty())
      return success();
    DimNames names(module);
    for (auto function : module.getOps<func::FuncOp>()) {
      if (function.isExternal())
        continue;
      for (Operation &op : function.getBody().front().without_terminator()) {
        if (isa<lm::BeginBackwardOp>(op))
          break;
        for (RuleMatcher *matcher : wanted)
          if (failed(matcher->matchResults(&op, names)))
            return failure();
      }
    }
    return success();
  }

  // Every data rank is handed its own samples, whole.
  LogicalResult checkInput(func::FuncOp function, unsigned index,
                           MeshAttr mesh) {
    if (cast<RankedTensorType>(function.getArgument(index).getType())
            .getRank() == 0)
      return success();
    SmallVector<Attribute> data;
    Builder b(&getContext());
    for (StringRef axis : {"dp", "fsdp"})
      if (mesh.getSize(axis) > 1)
        data.push_back(b.getStringAttr(axis));
    SmallVector<MarkAttr> marks;
    if (auto list = function.getArgAttrOfType<ArrayAttr>(index, kMarksAttr))
      llvm::append_range(marks, list.getAsRange<MarkAttr>());
    // A dim takes the axes of one mark.
    if (data.empty() ? marks.empty()
                     : marks.size() == 1 && marks[0].getDim() == 0 &&
                           marks[0].getAxes() == b.getArrayAttr(data))
      return success();
    InFlightDiagnostic error =
        emitError(function.getArgument(index).getLoc())
        << "input " << function.getArgAttr(index, lm::kInputAttr)
        << " must be split by samples over the data axes, and by nothing else: "
           "every data rank is handed its own samples";
    for (MarkAttr mark : marks)
      error.attachNote() << "the rule at " << mark.getOrigin().getValue()
                         << " splits dim " << mark.getDim() << " over "
                         << llvm::join(
                                mark.getAxes().getAsValueRange<StringAttr>(),
                                ", ");
    error.attachNote() << "help: rule { input: \"*\" split { dim: \"B\" axis: "
                          "\"dp\" axis: \"fsdp\" } }, and no other rule for "
                          "inputs";
    return error;
  }
};

} // namespace
